"""`vary_caption`: captions of the worlds with parts left out and names replaced, for training."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

_CONSONANTS, _VOWELS = "bdfghjklmnprstv", "aeiou"


def vary_caption(parts: Sequence[Sequence[Any]], rng: random.Random) -> str:
    """A caption without some of the parts that are not needed, each left out with probability 0.2.

    ``parts`` are tuples such as `memkit.worlds.event.Part`. With probability 0.2 a name that stands for a constant is
    replaced by an invented one, so that a model learns that an unknown name carries no information on the constant.
    """
    words = []
    for text, needed, name in parts:
        if not needed and rng.random() < 0.2:
            continue
        if name and rng.random() < 0.2:
            invented = "".join(rng.choice(_CONSONANTS) + rng.choice(_VOWELS) for _ in range(2))
            text = text.replace(name, invented.capitalize() if name[0].isupper() else invented)
        words.append(text)
    return " ".join(words)
