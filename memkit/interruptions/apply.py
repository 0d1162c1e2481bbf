"""Interruptions for any clip, real video included: something hides the view for a while, then it returns.

`interrupt` returns a clip with a clean start (the seed), a degraded span and a clean end (the recovery), and its twin
without the interruption. Defaults follow ReMind (arXiv 2605.25333): occluders enter over frames 24 to 30 of 81, hold
until 42 and leave by 48; lights go down to 4 %; camera loops turn by 20°, with the peak at 0.50 and the end at 0.86 of
the clip. `memkit.worlds.interruptions` renders the same events within a world, where light and geometry are known.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from memkit.checks import check_room, is_number, shown
from memkit.display import with_shapes
from memkit.errors import InputError
from memkit.interruptions.kinds import (
    TRAINING_KINDS,
    CameraLoop,
    CameraOff,
    Fog,
    Interruption,
    LightsOff,
    LookAway,
    Occluder,
)
from memkit.interruptions.rendering import keep_all
from memkit.interruptions.timing import Spans, Timing
from memkit.video.frames import Video

__all__ = [
    "CameraLoop",
    "CameraOff",
    "Fog",
    "InterruptedClip",
    "Interruption",
    "LightsOff",
    "LookAway",
    "Occluder",
    "Spans",
    "Timing",
    "interrupt",
    "keep_all",
    "sample_interruption_settings",
]


@dataclass(frozen=True)
class InterruptedClip:
    """A clip, its uninterrupted twin, and when it is interrupted.

    ``twin`` shows the clip without the interruption; where a virtual camera crops, it is cropped in the same way, and
    otherwise it is the given tensor itself. ``amount`` is 0 in clean frames and 1 in the hold. ``c2w`` are virtual
    cameras relative to the given one, OpenCV axes, the identity unless the camera turns; ``intrinsics`` are as in
    `memkit.Cameras`, zeros where unknown.
    """

    video: UInt8[Tensor, "time height width 3"]
    twin: UInt8[Tensor, "time height width 3"]
    fps: float
    spans: Spans
    amount: Float[Tensor, " time"]
    c2w: Float[Tensor, "time 4 4"]
    intrinsics: Float[Tensor, "time 4"]
    settings: Interruption

    __repr__ = with_shapes

    def record(self) -> dict[str, Any]:
        """Name, settings and spans, in frames and in latent frames, ready for JSON."""
        return {
            "name": self.settings.NAME,
            "held_out": self.settings.HELD_OUT,
            "settings": asdict(self.settings),
            "fps": self.fps,
            "frames": asdict(self.spans),
            "latent_frames": asdict(self.spans.latent()),
        }


def interrupt(frames: UInt8[Tensor, "time height width 3"], fps: float, by: Interruption) -> InterruptedClip:
    """Interrupt a clip. Frames outside the degraded span are bit-identical to the twin's; ``frames`` are not changed.

    Raises:
        InputError: the frames are not uint8, there are fewer than 9 or empty ones, the rate is not positive, no frame
            falls within the timing, or the camera turns so far that a pixel would come from behind it.
    """
    if not isinstance(frames, Tensor) or frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
        raise InputError(f"The frames are {shown(frames)}; give uint8 [time, height, width, 3].")
    if not isinstance(by, Interruption):
        raise InputError(f"The interruption is {shown(by)}; give one of the kinds, such as Occluder().")
    if not is_number(fps) or not 0 < fps < float("inf") or not frames[:1].numel():
        raise InputError(f"A video needs frames and a positive rate, not {tuple(frames.shape)} at {fps} fps.")
    check_room(f"An interrupted clip of {len(frames):,} frames", 2 * frames.numel(), frames.device)
    amount = by.timing.amount(len(frames))
    spans = Spans.of(amount)
    start, stop = spans.degraded
    c2w, intrinsics = by._cameras(amount, frames.shape[2] / frames.shape[1])
    twin = by._twin(frames)
    video = twin.clone()
    clip = Video(frames, fps)
    for i, frame in enumerate(by._degraded(clip, start, amount[start:stop], c2w[start:stop])):
        video[start + i] = frame
    return InterruptedClip(video, twin, float(fps), spans, amount, c2w, intrinsics, by)


def sample_interruption_settings(rng: random.Random) -> Interruption:
    """Draw one of the training kinds, uniformly, and its settings; kinds with ``HELD_OUT`` are never drawn."""
    return rng.choice(TRAINING_KINDS).draw(rng)
