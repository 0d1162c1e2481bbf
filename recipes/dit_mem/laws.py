"""The clips of the laws world that the tiny preset is about, each drawn from its own generator by its id.

They are of bodies that drop and are thrown. tiny-wan was trained on the planets of the "train" split under their
names, so it knows their gravity without memory. What it knows nothing of are names it has not seen. So the encoder is
trained on such planets: the twelve of the "memory" split, and the twelve of "train" under names made up for them, so
that two dozen gravities occur and only other clips of a planet tell its own. A made-up name stays with its planet, so
captions find clips of the same planet. The planets of the "test" split are for evaluation alone.
"""

from __future__ import annotations

import random
from dataclasses import replace

from memkit.bank import MemoryBank
from memkit.errors import InputError
from memkit.worlds import sample_law
from memkit.worlds.constants import PLANETS, Split
from memkit.worlds.solids import Fall

MADE_UP = (
    *("Abdera", "Belisar", "Corvus", "Delmar", "Elspet", "Farrow"),
    *("Gesk", "Hollin", "Immer", "Jubal", "Kesh", "Umbra"),
)
"""Names for the planets of the "train" split, in their order there."""

_SPLIT_OF: dict[str, Split] = {planet: split for split, planets in PLANETS.items() for planet in planets}
_TRAINING = [*PLANETS["train"], *PLANETS["memory"]]
_ALIAS = dict(zip(PLANETS["train"], MADE_UP, strict=True))


def clip_ids(part: str, count: int, seed: int) -> list[str]:
    """Ids of ``count`` clips; ``part`` is "train" (24 planets) or "test" (six). The planets take turns."""
    return [f"{part}-{seed}-{i:05d}" for i in range(count)]


def law_of(id: str) -> Fall:
    """The clip of an id that ``clip_ids`` made, always the same; InputError for any other id."""
    part, seed, index = (id.split("-") + ["", ""])[:3]
    if part not in ("train", "test") or not seed.isdigit() or not index.isdigit():
        raise InputError(f"{id!r} is no clip of the laws world; use a bank that `prepare` made without --videos.")
    planets = _TRAINING if part == "train" else list(PLANETS["test"])
    planet = planets[int(index) % len(planets)]
    split = _SPLIT_OF[planet]
    law = sample_law(random.Random(f"dit-mem/{id}"), split, ("drop", "throw"))
    assert isinstance(law, Fall)
    return replace(law, planet=_ALIAS.get(planet, planet), gravity=PLANETS[split][planet])


def planets_of(bank: MemoryBank) -> dict[str, list[str]]:
    """The ids of a laws bank by planet."""
    found: dict[str, list[str]] = {}
    for id in bank.ids:
        found.setdefault(law_of(id).planet, []).append(id)
    return found
