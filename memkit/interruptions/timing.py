"""When an interruption happens, in shares of a clip, and the spans of frames and latent frames that follow from it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.checks import MOST_FRAMES, check_whole, is_number, shown
from memkit.errors import InputError

Span = tuple[int, int]  # first frame, and the first after it
STRIDE = 4  # frames per latent frame, except the first, which is one frame (Wan's VAEs)
_CUT = 1e-6  # share of a clip that the shortest ramp takes; far above rounding errors
LEAST_FRAMES = 2 * STRIDE + 1  # one latent frame each for the seed, the interruption and the recovery


@dataclass(frozen=True)
class Spans:
    """Half-open ranges that cover a clip: the clean seed, the degraded frames, the clean recovery."""

    seed: Span
    degraded: Span
    recovery: Span

    @staticmethod
    def of(amount: Float[Tensor, " time"]) -> Spans:
        """Spans from the amount of the interruption in each frame; raises `InputError` where it is nowhere above 0."""
        found = amount.nonzero().flatten().tolist()
        if not found:
            raise InputError(f"No frame of {len(amount)} falls within the interruption; give it a wider timing.")
        start, stop = found[0], found[-1] + 1
        return Spans((0, start), (start, stop), (stop, len(amount)))

    def latent(self) -> Spans:
        """The same in latent frames of a causal VAE: latent frame 0 is frame 0, latent frame i is frames 4i−3 to 4i.

        A latent frame with any interrupted frame is degraded. Frames at the end that do not fill a latent frame are
        left out, as by the VAE.
        """
        start = (self.seed[1] - 1) // STRIDE + 1
        stop = (self.recovery[0] + STRIDE + 2) // STRIDE
        return Spans((0, start), (start, stop), (stop, (self.recovery[1] - 1) // STRIDE + 1))


class Phases(NamedTuple):
    """An interruption in latent frames: the view is hidden in [start, stop) and fully visible again from ``clear`` on.

    In [stop, clear) the view comes back and already shows how the world has changed. Where recovery is evaluated, these
    frames belong to it and are never conditioning frames.
    """

    start: int
    stop: int
    clear: int

    @classmethod
    def of(cls, amount: Float[Tensor, " time"]) -> Phases:
        """Phases from the amount of the interruption in each frame; ``stop`` follows the last frame of the maximum.

        Raises `InputError` where the amount is nowhere above 0.
        """
        start, clear = Spans.of(amount).latent().degraded
        return cls(start, int((amount >= amount.max()).nonzero().max()) // STRIDE + 1, clear)


def frames_of(latents: Span) -> slice:
    """The video frames of latent frames [start, stop): latent frame 0 is frame 0, i > 0 is frames 4i − 3 to 4i."""
    return slice(max(0, STRIDE * (latents[0] - 1) + 1), STRIDE * (latents[1] - 1) + 1)


@dataclass(frozen=True)
class Timing:
    """Start and end of the ramps, as shares of a clip: 0 is its first frame and 1 its last.

    The interruption comes from ``begin`` to ``full`` and goes from ``release`` to ``over``; the frames at ``begin`` and
    ``over`` are clean.
    """

    begin: float = 0.30
    full: float = 0.375
    release: float = 0.525
    over: float = 0.60

    def __post_init__(self) -> None:
        shares = (self.begin, self.full, self.release, self.over)
        if not all(map(is_number, shares)) or not 0 <= self.begin <= self.full <= self.release <= self.over <= 1:
            raise InputError(f"{shown(self)} does not ascend from 0 to 1; give begin ≤ full ≤ release ≤ over.")
        if self.begin == self.over:
            raise InputError(f"{shown(self)} does not ascend from 0 to 1; give begin ≤ full ≤ release ≤ over.")

    def amount(self, num_frames: int) -> Float[Tensor, " {num_frames}"]:
        """0 in clean frames, 1 in the hold, smoothstep between; float32.

        The first frame and the last latent frame are always clean: if the clip is so short that the interruption would
        reach the latter, the whole timing is compressed.

        Raises:
            InputError: fewer than 9 frames, or more than a video may have.
        """
        check_whole("num_frames", num_frames, 0, STRIDE * MOST_FRAMES)
        if num_frames < LEAST_FRAMES:
            raise InputError(
                f"A clip of {num_frames} frames is too short to be interrupted: seed, interruption and recovery "
                f"need one latent frame each; give at least {LEAST_FRAMES} frames."
            )
        frame = torch.arange(num_frames, dtype=torch.float64)
        protected = (num_frames - 1) // STRIDE * STRIDE - STRIDE + 1
        share = frame / (num_frames - 1) * max(1.0, self.over * (num_frames - 1) / protected)
        coming = (share - self.begin) / max(self.full - self.begin, _CUT)
        going = (self.over - share) / max(self.over - self.release, _CUT)
        step = torch.minimum(coming, going).clamp(0, 1).round(decimals=9)  # rounding errors make no ramp
        return (step * step * (3 - 2 * step)).float()

    def jittered(self, rng: random.Random) -> Timing:
        """Shifted by up to 0.06 of a clip to either side and, if there is a hold, with up to 0.12 more of it."""
        shift = rng.uniform(-0.06, 0.06)
        longer = rng.uniform(0, 0.12) if self.release > self.full else 0.0
        moved = (self.begin + shift, self.full + shift, self.release + shift + longer, self.over + shift + longer)
        return Timing(*(round(min(max(share, 0.0), 1.0), 4) for share in moved))
