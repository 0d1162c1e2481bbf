"""Clips of the laws world by id, in which only other clips of the same name show a constant.

Three of four clips show a body that drops, is thrown or is tossed up, governed by the planet's gravity and the
material's restitution; one of four shows a process at the rate of its substance. tiny-wan was trained on the names of
the "train" split and may know their constants without memory, so clips to train on have names that it has not seen:
those of the "memory" split, and invented names for those of "train", which doubles the number of constants. An invented
name always stands for the same constant, so that captions retrieve clips with the same constant. The names of the
"test" split are for evaluation only.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from memkit.errors import InputError
from memkit.worlds.constants import MATERIALS, PLANETS, SUBSTANCES, Split
from memkit.worlds.event import Event
from memkit.worlds.laws import sample_law
from memkit.worlds.processes import Process
from memkit.worlds.solids import Fall

INVENTED_NAMES = {
    "Arda": "Abdera", "Boro": "Belisar", "Cyra": "Corvus", "Dune": "Delmar",
    "Eron": "Elspet", "Fenn": "Farrow", "Gaia": "Gesk", "Hera": "Hollin",
    "Ilya": "Immer", "Jarn": "Jubal", "Koth": "Kesh", "Lume": "Umbra",
    "clay": "abalite", "cork": "boronic", "wooden": "chalcic", "steel": "dolmen",
    "glass": "etherite", "rubber": "fibrous",
    "wax": "ablin", "ice": "borat", "tallow": "cinnel", "resin": "dravite",
    "butter": "elixin", "sugar": "fluore", "salt": "gorgon",
}  # fmt: skip
"""An invented name for each name of the "train" split."""

FALLS = ("drop", "throw", "toss")
PROCESSES = ("fill", "drain", "melt", "rise")


def clip_ids(part: str, count: int, seed: int) -> list[str]:
    """Ids of ``count`` clips; ``part`` is "train" (24 planets, 12 materials, 13 substances) or "test" (6, 4, 4).

    The planets of falls alternate; after each round of planets comes the next material.
    """
    return [f"{part}-{seed}-{i:05d}" for i in range(count)]


def law_of(id: str) -> Event:
    """The event of an id of `clip_ids`. Raises `InputError` for any other id."""
    part, seed, index = (id.split("-") + ["", ""])[:3]
    if part not in ("train", "test") or not seed.isdigit() or not index.isdigit():
        raise InputError(f"{id!r} is no clip of the laws world; use the ids of `memkit.worlds.law_clips.clip_ids`.")
    splits: tuple[Split, ...] = ("train", "memory") if part == "train" else ("test",)
    round, turn = divmod(int(index), 4)
    rng = random.Random(f"dit-mem/{id}")
    return _process(rng, splits, round) if turn == 3 else _fall(rng, splits, 3 * round + turn)


def _fall(rng: random.Random, splits: tuple[Split, ...], number: int) -> Fall:
    planets: list[tuple[Split, str]] = [(split, name) for split in splits for name in PLANETS[split]]
    split, planet = planets[number % len(planets)]
    material = list(MATERIALS[split])[number // len(planets) % len(MATERIALS[split])]
    fall: Any = sample_law(rng, split, FALLS)
    constants = MATERIALS[split][material]
    lift = fall.lift * (PLANETS[split][planet] / fall.gravity) ** 0.5  # the height stays the same
    return replace(
        fall,
        planet=INVENTED_NAMES.get(planet, planet),
        material=INVENTED_NAMES.get(material, material),
        gravity=PLANETS[split][planet],
        restitution=constants.restitution,
        friction=constants.friction,
        lift=lift,
    )


def _process(rng: random.Random, splits: tuple[Split, ...], number: int) -> Process:
    substances: list[tuple[Split, str]] = [(split, name) for split in splits for name in SUBSTANCES[split]]
    split, substance = substances[number % len(substances)]
    process: Any = sample_law(rng, split, PROCESSES)
    return replace(process, substance=INVENTED_NAMES.get(substance, substance), rate=SUBSTANCES[split][substance])


def constants_of(law: Event) -> dict[str, float]:
    """The constants that the names in the caption of an event stand for, by name."""
    return {name: float(getattr(law, name)) for name in law.constants}


def names_of(law: Event) -> tuple[str, ...]:
    """The names in a caption that stand for constants: planet and material of a fall, substance of a process."""
    return tuple(part.name for part in law.parts() if part.name is not None)


def same_constants(law: Event, ids: Iterable[str]) -> list[str]:
    """The ids of clips that are governed by the same constants as ``law``, whatever their values."""
    return [id for id in ids if law_of(id).constants == law.constants]
