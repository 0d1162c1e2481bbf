"""The `laws` suite: bodies that fall, slide, roll, swing, collide, rise and drift; tanks that fill; blocks that melt.

A caption names what is visible and the planet, material or substance that governs the motion. Only other clips of the
same name show its constant; see `memkit.worlds.constants` for the splits.
"""

from __future__ import annotations

import random

from memkit.errors import InputError
from memkit.worlds.constants import Split
from memkit.worlds.event import Event
from memkit.worlds.ground import Collide, Ramp, Slide
from memkit.worlds.mechanisms import Orbit
from memkit.worlds.pendulums import Drift, Spin, Spring, Swing
from memkit.worlds.processes import Melt, Rise
from memkit.worlds.solids import Drop, Throw, Toss
from memkit.worlds.tanks import Drain, Fill

LAWS: tuple[type[Event], ...] = (
    Drop,
    Throw,
    Toss,
    Slide,
    Ramp,
    Swing,
    Spring,
    Collide,
    Spin,
    Drift,
    Rise,
    Orbit,
    Fill,
    Drain,
    Melt,
)
_OFTEN = {Drop: 4, Throw: 2}  # most experiments are about gravity and restitution


def sample_law(rng: random.Random, split: Split = "train", kinds: tuple[str, ...] | None = None) -> Event:
    """Draw an event of a split, with ``kinds`` uniformly among these. Raises `InputError` for an unknown kind."""
    if kinds is None:
        return rng.choices(LAWS, [_OFTEN.get(law, 1) for law in LAWS])[0].draw(rng, split)
    known = {law.kind: law for law in LAWS}
    if unknown := set(kinds) - known.keys():
        raise InputError(f"The laws suite has no {sorted(unknown)}; it has {sorted(known)}.")
    return known[rng.choice(kinds)].draw(rng, split)
