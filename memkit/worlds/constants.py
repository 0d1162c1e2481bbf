"""Named physical constants, in three splits that share neither a name nor a value.

A model trained on the "train" split knows its names. The constants of "memory" and "test" names can only be learned
from other clips. Colours, sizes and places describe what is visible and belong to every split.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "memory", "test"]
SPLITS: tuple[Split, ...] = ("train", "memory", "test")

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.90, 0.10, 0.10),
    "orange": (0.98, 0.52, 0.06),
    "yellow": (0.96, 0.88, 0.10),
    "green": (0.12, 0.72, 0.18),
    "cyan": (0.10, 0.82, 0.88),
    "blue": (0.12, 0.26, 0.94),
    "purple": (0.55, 0.14, 0.80),
    "pink": (0.98, 0.42, 0.70),
}
SIZES: dict[str, float] = {"small": 0.32, "medium": 0.46, "large": 0.64}
"""Radius or half edge length in metres."""
PLACES: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "in a lab": ((0.55, 0.56, 0.58), (0.80, 0.82, 0.86)),
    "in the desert": ((0.80, 0.66, 0.46), (0.66, 0.80, 0.94)),
    "at night": ((0.24, 0.25, 0.31), (0.07, 0.07, 0.12)),
    "in a meadow": ((0.38, 0.52, 0.33), (0.74, 0.86, 0.95)),
}
"""Colours of floor and sky."""

PLANETS: dict[Split, dict[str, float]] = {
    "train": {
        "Arda": 2.0,
        "Boro": 2.9,
        "Cyra": 3.9,
        "Dune": 5.0,
        "Eron": 6.2,
        "Fenn": 7.6,
        "Gaia": 9.0,
        "Hera": 10.6,
        "Ilya": 12.2,
        "Jarn": 14.0,
        "Koth": 16.0,
        "Lume": 18.0,
    },
    "memory": {
        "Ixia": 2.4,
        "Juno": 3.3,
        "Kato": 4.5,
        "Lyra": 5.6,
        "Moab": 6.8,
        "Nereid": 8.2,
        "Orla": 9.8,
        "Pyrrha": 11.4,
        "Quill": 13.0,
        "Rasta": 15.0,
        "Sorbo": 17.0,
        "Tivo": 2.2,
    },
    "test": {"Mira": 2.7, "Nova": 4.2, "Odin": 7.2, "Pax": 10.2, "Rhea": 13.5, "Sol": 16.5},
}
"""Gravity in m/s²."""


@dataclass(frozen=True)
class Material:
    """``restitution``: speed after a bounce over speed before it. ``friction``: sliding friction over weight."""

    restitution: float
    friction: float


MATERIALS: dict[Split, dict[str, Material]] = {
    "train": {
        "clay": Material(0.0, 0.50),
        "cork": Material(0.30, 0.34),
        "wooden": Material(0.45, 0.26),
        "steel": Material(0.58, 0.12),
        "glass": Material(0.68, 0.07),
        "rubber": Material(0.82, 0.42),
    },
    "memory": {
        "amberine": Material(0.20, 0.38),
        "brannite": Material(0.38, 0.18),
        "corundic": Material(0.52, 0.30),
        "dralite": Material(0.63, 0.46),
        "elmstone": Material(0.75, 0.10),
        "fulgurite": Material(0.86, 0.22),
    },
    "test": {
        "glimmer": Material(0.25, 0.28),
        "hexel": Material(0.48, 0.40),
        "ivorine": Material(0.66, 0.15),
        "jadeite": Material(0.79, 0.33),
    },
}

SUBSTANCES: dict[Split, dict[str, float]] = {
    "train": {"wax": 0.05, "ice": 0.07, "tallow": 0.09, "resin": 0.11, "butter": 0.13, "sugar": 0.15, "salt": 0.17},
    "memory": {"kelm": 0.06, "lorn": 0.08, "mirrh": 0.10, "nacre": 0.12, "oolite": 0.14, "pumic": 0.16},
    "test": {"quartine": 0.055, "rimestone": 0.085, "selen": 0.115, "talc": 0.145},
}
"""Rate of a process of the substance, as a share of the whole per second: at 0.1 it melts away in 10 seconds."""
