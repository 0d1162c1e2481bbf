"""`StreamConfig`: how a `Stream` generates a chunk."""

from __future__ import annotations

from dataclasses import dataclass

from memkit.errors import InputError
from memkit.generation.short_text import PIPELINE_TEXT_LENGTH


@dataclass(frozen=True)
class StreamConfig:
    """How a stream generates a chunk; shift, guidance and chunk are ReMind's, the number of steps is our reading.

    Attributes:
        chunk: latent frames per chunk.
        first: latent frames of the first chunk, where it differs (1 for 13 = 1 + 4·3).
        steps: sampling steps of the backbone's scheduler.
        shift: flow shift of the scheduler; None for its own.
        guidance_scale: of classifier-free guidance; at 1 there is no unconditional branch, nor its half of the cache.
        context_sigma: noise level, in [0, 1], at which a finished chunk is written to the cache; 0 is clean.
        text_length: with a smaller one only that many text tokens are computed, and the pipeline's padding to 512
            tokens as one key: the same up to rounding, but cheaper for small videos; see
            `memkit.generation.short_text`.
    """

    chunk: int = 3
    first: int | None = None
    steps: int = 50
    shift: float | None = 5.0
    guidance_scale: float = 3.0
    negative_prompt: str = ""
    context_sigma: float = 0.0
    text_length: int = PIPELINE_TEXT_LENGTH

    def __post_init__(self) -> None:
        if min(self.chunk, self.steps, 1 if self.first is None else self.first) < 1:
            raise InputError(f"{self}: chunk, first and steps must be at least 1.")
        if not 1 <= self.text_length <= PIPELINE_TEXT_LENGTH:
            raise InputError(f"text_length is {self.text_length}; give 1 to {PIPELINE_TEXT_LENGTH}.")
        if not 0.0 <= self.context_sigma <= 1.0:
            raise InputError(f"context_sigma is {self.context_sigma}; give a noise level in [0, 1].")
