"""The memories to choose from on a walk: which of the past frames a step sees."""

from __future__ import annotations

from typing import Literal, get_args

from memkit.errors import InputError
from memkit.injectors.frame_context.context import FrameContext
from memkit.rollout.base import ContextMethod, Keeps
from memkit.rollout.methods import NewestContext, NoContext, RetrievedContext

MemoryName = Literal["past", "view", "last step", "none"]

TITLES: dict[MemoryName, str] = {
    "past": "The past: the newest 15 latent frames (three steps)",
    "last step": "The last step: the newest 5 latent frames",
    "view": "What the new view overlaps: 10 latent frames by field of view",
    "none": "None: only the last frame",
}
GUIDANCE = 2.0
"""History guidance, that of the demo."""


class _OverlappingView(RetrievedContext):
    """The frames that a field-of-view rule finds among the latents of whole chunks, which all memories here share."""

    keeps: Keeps = "chunks"


def make_memory(name: MemoryName, context: FrameContext) -> ContextMethod:
    """The memory of this name. The weights were trained with up to 15 of the newest frames.

    Raises `InputError` for an unknown name.
    """
    if name not in get_args(MemoryName):
        raise InputError(f"The memory is {name!r}; choose one of {', '.join(get_args(MemoryName))}.")
    if name == "none":
        return NoContext(context).eval()
    if name == "view":
        method = _OverlappingView(context, 10)
        method.guidance = GUIDANCE
        return method.eval()
    return NewestContext(context, 15 if name == "past" else 5, GUIDANCE).eval()
