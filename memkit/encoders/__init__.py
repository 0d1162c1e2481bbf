"""Encoders: modules that turn memory latents `[B, N, C, T, H, W]` into `Memory`."""

from memkit.encoders.dit_mem import DitMemConfig, DitMemEncoder, load_dit_mem
from memkit.encoders.filters import HighPass, LowPass
from memkit.encoders.frequency import FrequencyEncoder, FrequencyEncoderConfig

__all__ = [
    "DitMemConfig",
    "DitMemEncoder",
    "FrequencyEncoder",
    "FrequencyEncoderConfig",
    "HighPass",
    "LowPass",
    "load_dit_mem",
]
