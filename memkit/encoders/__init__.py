"""Encoders: modules that encode the latents of memory clips [B, N, C, T, H, W] as `Memory`."""

from memkit.encoders.base import MemoryEncoder
from memkit.encoders.choice import EncoderName, EncoderSize, load_encoder, make_encoder
from memkit.encoders.clips import check_clips, encode_clips
from memkit.encoders.dit_mem import DitMemConfig, DitMemEncoder, load_dit_mem
from memkit.encoders.filters import HighPass, LowPass
from memkit.encoders.frequency import (
    FrequencyEncoder,
    FrequencyEncoderConfig,
    HighPassOnlyEncoder,
    LowPassOnlyEncoder,
    NoFilterEncoder,
)
from memkit.encoders.gate import MemoryGate
from memkit.encoders.global_tokens import GlobalTokens, GlobalTokensConfig
from memkit.encoders.mix import mix_branches
from memkit.encoders.patch import PatchEncoder, PatchEncoderConfig

__all__ = [
    "DitMemConfig",
    "DitMemEncoder",
    "EncoderName",
    "EncoderSize",
    "FrequencyEncoder",
    "FrequencyEncoderConfig",
    "GlobalTokens",
    "GlobalTokensConfig",
    "HighPass",
    "HighPassOnlyEncoder",
    "LowPass",
    "LowPassOnlyEncoder",
    "MemoryEncoder",
    "MemoryGate",
    "NoFilterEncoder",
    "PatchEncoder",
    "PatchEncoderConfig",
    "check_clips",
    "encode_clips",
    "load_dit_mem",
    "load_encoder",
    "make_encoder",
    "mix_branches",
]
