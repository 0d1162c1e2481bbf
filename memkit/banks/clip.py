"""What a bank gives back: a clip, and a line that says what it holds."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.banks.entries import Entry
from memkit.cameras.cameras import Cameras
from memkit.display import counted
from memkit.errors import InputError

_INFO_LENGTH = 200  # characters of a bank's info in its repr


@dataclass(frozen=True, repr=False)
class Clip:
    """One clip of a bank. ``cameras`` holds one camera per latent frame; ``source`` is the video it was cut from."""

    id: str
    latents: Float[Tensor, "channels time height width"]
    caption: str
    source: str | None
    cameras: Cameras | None

    def __repr__(self) -> str:
        dtype = str(self.latents.dtype).removeprefix("torch.")
        facts = [repr(self.id), repr(self.caption), f"latents {list(self.latents.shape)} {dtype}"]
        facts += [] if self.source is None else [f"source {self.source!r}"]
        facts += [] if self.cameras is None else ["cameras"]
        return f"Clip({', '.join(facts)})"


def stack_clips(clips: Sequence[Clip]) -> tuple[Float[Tensor, "batch channels time height width"], Cameras | None]:
    """Latents of clips of one shape, in float32, and their cameras [batch, time]; None unless all of them have some.

    Raises `InputError` for no clips, and for clips that differ in shape.
    """
    if len({clip.latents.shape for clip in clips}) != 1:
        shapes = ", ".join(f"{clip.id!r} {list(clip.latents.shape)}" for clip in clips[:8]) or "none"
        raise InputError(f"One or more clips of one shape can be stacked, not {shapes}; leave out those that differ.")
    latents = torch.stack([clip.latents for clip in clips]).float()
    cameras = [clip.cameras for clip in clips if clip.cameras is not None]
    if len(cameras) < len(clips):
        return latents, None
    c2w, intrinsics = (torch.stack([getattr(each, name) for each in cameras]) for name in ("c2w", "intrinsics"))
    return latents, Cameras(c2w, intrinsics)


def hint(id: str, ids: Iterable[str]) -> str:
    """What to ask for instead of an id that a bank lacks."""
    close = difflib.get_close_matches(id, ids, n=3)
    return f"did you mean {', '.join(map(repr, close))}?" if close else "see .ids for those there are."


def summary(entries: Iterable[Entry], info: Mapping[str, Any]) -> str:
    """How many clips of which shapes a bank holds, and the beginning of its info."""
    kinds = Counter((tuple(entry.shape), entry.dtype) for entry in entries).most_common()
    clips = [f"{counted(count, 'clip')} of {list(shape)} {dtype}" for (shape, dtype), count in kinds]
    if len(clips) > 3:
        clips[3:] = [f"{sum(count for _, count in kinds[3:])} of other shapes"]
    about = ", ".join(f"{name}={value!r}" for name, value in info.items())
    about = about if len(about) <= _INFO_LENGTH else f"{about[:_INFO_LENGTH]}…"
    return ", ".join(filter(None, [" and ".join(clips) or "empty", about]))
