"""Encoders: modules that turn memory latents `[B, N, C, T, H, W]` into `Memory`."""

from memkit.encoders.filters import HighPass, LowPass

__all__ = ["HighPass", "LowPass"]
