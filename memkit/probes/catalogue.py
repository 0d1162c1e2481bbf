"""memkit's probes and mechanisms by name."""

from __future__ import annotations

from typing import Any

from memkit.checks import check_choice
from memkit.errors import InputError
from memkit.probes.evolve import Evolve
from memkit.probes.law import Law
from memkit.probes.occlusion import Occlusion
from memkit.probes.probe import Probe
from memkit.probes.recall import Recall
from memkit.probes.switch import Switch

PROBES: dict[str, type[Probe[Any]]] = {kind.name: kind for kind in (Recall, Occlusion, Evolve, Law, Switch)}


def make_probe(name: str, **knobs: Any) -> Probe[Any]:
    """A probe by its name, with these knobs and the defaults of all others.

    Of these others, some have ranges: they change in training from batch to batch, and several values are tested.

    Raises `InputError` for an unknown name or knob, and knobs that do not fit each other.
    """
    check_choice("The probe", name, PROBES)
    kind = PROBES[name]
    known = kind.knobs_class.__dataclass_fields__
    if unknown := sorted(knobs.keys() - known):
        raise InputError(f"{name} has no knobs {unknown}; it has {', '.join(known)}.")
    return kind(kind.knobs_class(**knobs), {name: x for name, x in kind.default_ranges.items() if name not in knobs})
