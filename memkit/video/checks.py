"""What videos and their rates must be, wherever they enter."""

from __future__ import annotations

import torch
from torch import Tensor

from memkit.checks import check_number, shown
from memkit.errors import InputError

MOST_SIDE = 1 << 16
"""The largest height or width of a picture, in pixels."""
RATES = (1e-6, 1e6)
"""The range of rates, in frames per second."""


def check_frames(name: str, frames: object) -> None:
    """Raise `InputError` unless these are one or more frames, uint8 [time, height, width, 3]."""
    if not isinstance(frames, Tensor) or frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        what = f"{frames.dtype} {tuple(frames.shape)}" if isinstance(frames, Tensor) else shown(frames)
        raise InputError(f"{name} are {what}; give torch.uint8 [time, height, width, 3].")
    if not frames.numel():
        raise InputError(f"{name} are {tuple(frames.shape)}, which is no picture; give one frame or more.")


def check_rate(name: str, fps: object) -> None:
    """Raise `InputError` unless this is a rate in frames per second."""
    check_number(name, fps, *RATES)
