"""`StreamConfig`: how a `Stream` generates a chunk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from memkit.checks import MOST_FRAMES, MOST_GUIDANCE, MOST_STEPS, check_fields, shown
from memkit.errors import InputError
from memkit.flow import NUM_TRAIN_TIMESTEPS, SHIFTS
from memkit.generation.short_text import PIPELINE_TEXT_LENGTH


@dataclass(frozen=True)
class StreamConfig:
    """How a stream generates a chunk; shift, guidance and chunk are ReMind's, the number of steps is our reading.

    Attributes:
        chunk: latent frames per chunk.
        first: latent frames of the first chunk, where it differs (1 for 13 = 1 + 4·3).
        steps: sampling steps of the backbone's scheduler.
        shift: flow shift of the scheduler, or of ``timesteps``; None for the scheduler's own, and none of the latter.
        guidance_scale: of classifier-free guidance; at 1 there is no unconditional branch, nor its half of the cache.
        context_sigma: noise level, in [0, 1], at which a finished chunk is written to the cache; 0 is clean.
        text_length: with a smaller one only that many text tokens are computed, and the pipeline's padding to 512
            tokens as one key: the same up to rounding, but cheaper for small videos; see
            `memkit.generation.short_text`.
        timesteps: of a model that was distilled to a few steps, in (0, 1000], descending, before the shift. At each the
            clean chunk is predicted, and noised anew to the next one (Self-Forcing, arXiv 2506.08009). They take the
            place of ``steps`` and of the scheduler.
        window: latent frames that a chunk attends to, its own and the sink included; None for all that are cached.
        sink: latent frames at the beginning of the video that are never evicted.
        recache: at new prompts, compute the keys and values of the newest ``window`` frames anew under these, chunk by
            chunk, and forget all others but the sink (LongLive, arXiv 2509.22622). Needs a window.
    """

    chunk: int = 3
    first: int | None = None
    steps: int = 50
    shift: float | None = 5.0
    guidance_scale: float = 3.0
    negative_prompt: str = ""
    context_sigma: float = 0.0
    text_length: int = PIPELINE_TEXT_LENGTH
    timesteps: tuple[float, ...] | None = None
    window: int | None = None
    sink: int = 0
    recache: bool = False

    def __post_init__(self) -> None:
        check_fields(
            self,
            chunk=(1, MOST_FRAMES),
            first=(1, MOST_FRAMES),
            steps=(1, MOST_STEPS),
            shift=SHIFTS,
            guidance_scale=(-MOST_GUIDANCE, MOST_GUIDANCE),
            context_sigma=(0, 1),
            text_length=(1, PIPELINE_TEXT_LENGTH),
            timesteps=(0, NUM_TRAIN_TIMESTEPS),
            window=(1, MOST_FRAMES),
            sink=(0, MOST_FRAMES),
        )
        if self.timesteps is not None:
            self._check_timesteps(self.timesteps)
        longest = max(self.chunk, self.first or 0)
        if self.window is not None and self.window < self.sink + longest:
            raise InputError(
                f"A window of {self.window} frames with a sink of {self.sink} has no room for a chunk of {longest}; "
                "give a larger window."
            )

        if self.recache and self.window is None:
            raise InputError("recache computes the frames of the window anew, and there is no window; give one.")

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> StreamConfig:
        """The config that ``dataclasses.asdict`` made ``content`` of, after a way through JSON.

        Raises `InputError` for any other content.
        """
        if not isinstance(content, Mapping) or content.keys() - {field.name for field in fields(cls)}:
            raise InputError(f"A StreamConfig cannot be made of {shown(content)}; give its settings, and no others.")
        timesteps = content.get("timesteps")
        return cls(**{**content, "timesteps": tuple(timesteps) if isinstance(timesteps, list) else timesteps})

    @staticmethod
    def _check_timesteps(timesteps: tuple[float, ...]) -> None:
        falling = all(a > b for a, b in zip(timesteps, timesteps[1:], strict=False))
        if not timesteps or not falling or not 0 < timesteps[-1] <= timesteps[0] <= NUM_TRAIN_TIMESTEPS:
            raise InputError(f"timesteps are {timesteps}; give descending ones in (0, {NUM_TRAIN_TIMESTEPS}].")

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Noise levels of ``timesteps``, after the shift; the model is called at 1000 times these."""
        shift = 1.0 if self.shift is None else self.shift
        levels = [t / NUM_TRAIN_TIMESTEPS for t in self.timesteps or ()]
        return tuple(shift * u / (1 + (shift - 1) * u) for u in levels)
