"""Encoders: modules that turn memory latents `[B, N, C, T, H, W]` into `Memory`."""

from memkit.encoders.filters import HighPass, LowPass
from memkit.encoders.frequency import FrequencyEncoder, FrequencyEncoderConfig

__all__ = ["FrequencyEncoder", "FrequencyEncoderConfig", "HighPass", "LowPass"]
