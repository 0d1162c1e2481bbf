"""The conditions of an evaluation: memory clips and controls. A prompt has the same noise under all of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from memkit.banks import MemoryBank
from memkit.generation import MemoryGuidance
from memkit.worlds.law_clips import law_of, names_of, same_constants
from recipes.dit_mem.memories import Source, find
from recipes.dit_mem.presets import Config


@dataclass(frozen=True)
class Condition:
    """The memory clips of each prompt, and how guidance uses them (see `memkit.generation.guidance`)."""

    shown: list[list[str]]
    guidance: MemoryGuidance | None = None
    low: list[list[str]] | None = None
    """Clips whose low tokens replace those of ``shown``. ``high`` is the same for high tokens."""
    high: list[list[str]] | None = None


ConditionsOf = Callable[[Config, MemoryBank, Sequence[str]], dict[str, Condition]]


def knowledge(config: Config, bank: MemoryBank, targets: Sequence[str]) -> dict[str, Condition]:
    """No clips; retrieved clips; clips of other names; random clips; the prompt's own clip."""
    return {
        "none": Condition([[] for _ in targets]),
        "retrieved": Condition(_found(config, bank, targets, "retrieved")),
        "other": Condition([others(config, bank, id) for id in targets]),
        "random": Condition(_found(config, bank, targets, "random")),
        "oracle": Condition([[id] for id in targets]),
    }


def plug(config: Config, bank: MemoryBank, targets: Sequence[str]) -> dict[str, Condition]:
    """More and fewer clips than in training, and clips some of which are wrong."""
    numbers = {
        f"k = {k}": Condition(_found(replace(config, k=k), bank, targets, "retrieved"))
        for k in (1, 3, 5, 10)
        if k != config.k
    }
    right, wrong = _found(config, bank, targets, "retrieved"), [others(config, bank, id) for id in targets]
    degraded = {
        f"{n} of {config.k} wrong": Condition([b[:n] + a[: config.k - n] for a, b in zip(right, wrong, strict=True)])
        for n in range(1, config.k)
    }
    return numbers | degraded


def guidance(config: Config, bank: MemoryBank, targets: Sequence[str]) -> dict[str, Condition]:
    """Memory in the conditional branch only, and as a separate term of guidance."""
    right, wrong = _found(config, bank, targets, "retrieved"), [others(config, bank, id) for id in targets]
    ways: dict[str, MemoryGuidance] = {"conditional": "conditional", "w_m = 1": 1.0, "w_m = 3": 3.0}
    return {
        f"{kind}, {name}": Condition(shown, way)
        for name, way in ways.items()
        for kind, shown in (("retrieved", right), ("other", wrong))
    }


def mixture(config: Config, bank: MemoryBank, targets: Sequence[str]) -> dict[str, Condition]:
    """Low tokens of clips of the right planet with high tokens of another planet, and the reverse.

    The clips of the other planet count as those shown, so "with the clips shown" is the correlation with its gravity.
    """
    right, wrong = _found(config, bank, targets, "retrieved"), [others(config, bank, id) for id in targets]
    return {"low right, high other": Condition(wrong, low=right), "high right, low other": Condition(wrong, high=right)}


def encoders(config: Config, bank: MemoryBank, targets: Sequence[str]) -> dict[str, Condition]:
    """The prompt's own clip, which encoders are compared by in addition to retrieved and other clips."""
    return {"oracle": Condition([[id] for id in targets])}


STUDIES: dict[str, ConditionsOf] = {of.__name__: of for of in (knowledge, plug, guidance, mixture, encoders)}


def others(config: Config, bank: MemoryBank, id: str) -> list[str]:
    """k random clips of one other planet and material, or of one other substance.

    If there are fewer, clips of that planet and of any material except the target's follow.
    """
    law, rng = law_of(id), random.Random(f"{config.seed}/{id}")
    own = set(names_of(law))
    strange = [clip for clip in same_constants(law, bank.ids) if not own & set(names_of(law_of(clip)))]
    rng.shuffle(strange)
    if not strange:
        return []
    names = names_of(law_of(strange[0]))
    strange.sort(key=lambda clip: [a != b for a, b in zip(names_of(law_of(clip)), names, strict=True)][::-1])
    return strange[: config.k]


def _found(config: Config, bank: MemoryBank, targets: Sequence[str], source: Source) -> list[list[str]]:
    """The clips that are found for the captions of the targets, without the targets themselves."""
    hits = find(config, bank, [law_of(id).caption for id in targets], source, [[id] for id in targets])
    return [found.ids for found in hits]
