"""The clips of the laws world that the tiny preset is about, each drawn from its own generator by its id.

Three of four are of bodies that drop, are thrown or are tossed up: the planet's gravity and the material's restitution
govern them. One of four is of a process at the rate of its substance. tiny-wan was trained on the names of the "train"
split, so it may know their constants without memory. What it knows nothing of are names it has not seen. So the
encoder is trained on such names: those of the "memory" split, and those of "train" under names made up for them, so
that twice as many constants occur and only other clips of a name tell its own. A made-up name stays with its constant,
so captions find clips of the same one. The names of the "test" split are for evaluation alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from memkit.errors import InputError
from memkit.worlds import Event, sample_law
from memkit.worlds.constants import MATERIALS, PLANETS, SUBSTANCES, Split
from memkit.worlds.processes import Process
from memkit.worlds.solids import Fall

MADE_UP = {
    "Arda": "Abdera", "Boro": "Belisar", "Cyra": "Corvus", "Dune": "Delmar",
    "Eron": "Elspet", "Fenn": "Farrow", "Gaia": "Gesk", "Hera": "Hollin",
    "Ilya": "Immer", "Jarn": "Jubal", "Koth": "Kesh", "Lume": "Umbra",
    "clay": "abalite", "cork": "boronic", "wooden": "chalcic", "steel": "dolmen",
    "glass": "etherite", "rubber": "fibrous",
    "wax": "ablin", "ice": "borat", "tallow": "cinnel", "resin": "dravite",
    "butter": "elixin", "sugar": "fluore", "salt": "gorgon",
}  # fmt: skip
"""Names for those of the "train" split."""

FALLS = ("drop", "throw", "toss")
PROCESSES = ("fill", "drain", "melt", "rise")


def clip_ids(part: str, count: int, seed: int) -> list[str]:
    """Ids of ``count`` clips; ``part`` is "train" (24 planets, 12 materials, 13 substances) or "test" (6, 4, 4).

    Names take turns: of falls first the planets, and with each round of them the materials.
    """
    return [f"{part}-{seed}-{i:05d}" for i in range(count)]


def law_of(id: str) -> Event:
    """The clip of an id that ``clip_ids`` made, always the same; InputError for any other id."""
    part, seed, index = (id.split("-") + ["", ""])[:3]
    if part not in ("train", "test") or not seed.isdigit() or not index.isdigit():
        raise InputError(f"{id!r} is no clip of the laws world; use a bank that `prepare` made without --videos.")
    splits: tuple[Split, ...] = ("train", "memory") if part == "train" else ("test",)
    round, turn = divmod(int(index), 4)
    rng = random.Random(f"dit-mem/{id}")
    return _process(rng, splits, round) if turn == 3 else _fall(rng, splits, 3 * round + turn)


def _fall(rng: random.Random, splits: tuple[Split, ...], number: int) -> Fall:
    planets: list[tuple[Split, str]] = [(split, name) for split in splits for name in PLANETS[split]]
    split, planet = planets[number % len(planets)]
    material = list(MATERIALS[split])[number // len(planets) % len(MATERIALS[split])]
    made: Any = sample_law(rng, split, FALLS)
    constants = MATERIALS[split][material]
    lift = made.lift * (PLANETS[split][planet] / made.gravity) ** 0.5  # as high as it was to go
    return replace(
        made,
        planet=MADE_UP.get(planet, planet),
        material=MADE_UP.get(material, material),
        gravity=PLANETS[split][planet],
        restitution=constants.restitution,
        friction=constants.friction,
        lift=lift,
    )


def _process(rng: random.Random, splits: tuple[Split, ...], number: int) -> Process:
    substances: list[tuple[Split, str]] = [(split, name) for split in splits for name in SUBSTANCES[split]]
    split, substance = substances[number % len(substances)]
    made: Any = sample_law(rng, split, PROCESSES)
    return replace(made, substance=MADE_UP.get(substance, substance), rate=SUBSTANCES[split][substance])


def constants_of(law: Event) -> dict[str, float]:
    """The constants that the names of its caption stand for."""
    return {name: float(getattr(law, name)) for name in law.constants}


def names_of(law: Event) -> tuple[str, ...]:
    """The names in its caption that stand for constants: of a fall planet and material, of a process the substance."""
    return tuple(part.name for part in law.parts() if part.name is not None)


def kin(law: Event, ids: Iterable[str]) -> list[str]:
    """Those of the clips that obey a law of the same constants, whatever their values."""
    return [id for id in ids if law_of(id).constants == law.constants]
