"""The published Wan models: keyword arguments of `WanTransformer3DModel`, and the video format of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from memkit.checks import check_whole, shown
from memkit.errors import InputError
from memkit.files.values import LARGEST_SIZE, in_range


@dataclass(frozen=True)
class VideoFormat:
    """The format of the videos that a model generates: number of frames, height and width in pixels, frames per
    second."""

    num_frames: int
    height: int
    width: int
    fps: float

    def __post_init__(self) -> None:
        for name in ("num_frames", "height", "width"):
            check_whole(name, getattr(self, name), 1, LARGEST_SIZE)
        if not in_range(self.fps, above=0, most=1000):
            raise InputError(f"fps is {shown(self.fps)}; give frames per second, above 0 and up to 1000.")


@dataclass(frozen=True)
class WanPreset:
    """One published model. The A14B models have 2 ``experts``: the first for noise levels σ above ``boundary_ratio``,
    the second for those below."""

    transformer: dict[str, Any]
    video_format: VideoFormat
    experts: int = 1
    boundary_ratio: float | None = None
    expand_timesteps: bool = False
    """Whether the model takes one timestep per token."""


_480P = VideoFormat(81, 480, 832, 16.0)
_720P = VideoFormat(81, 720, 1280, 16.0)
_TI2V = VideoFormat(121, 704, 1280, 24.0)


def _wan(layers: int, heads: int, ffn_dim: int, in_channels: int = 16, out_channels: int = 16) -> dict[str, Any]:
    return {
        "patch_size": (1, 2, 2),
        "num_attention_heads": heads,
        "attention_head_dim": 128,
        "in_channels": in_channels,
        "out_channels": out_channels,
        "text_dim": 4096,
        "freq_dim": 256,
        "ffn_dim": ffn_dim,
        "num_layers": layers,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "eps": 1e-6,
    }


def wan2_1_t2v_1_3b() -> WanPreset:
    """Wan2.1-T2V-1.3B."""
    return WanPreset(_wan(30, 12, 8960), _480P)


def wan2_1_t2v_14b() -> WanPreset:
    """Wan2.1-T2V-14B."""
    return WanPreset(_wan(40, 40, 13824), _720P)


def wan2_1_i2v_14b() -> WanPreset:
    """Wan2.1-I2V-14B: 36 input channels (latents, mask, first frame) and CLIP features in the cross-attention."""
    image = {"image_dim": 1280, "added_kv_proj_dim": 5120}
    return WanPreset({**_wan(40, 40, 13824, in_channels=36), **image}, _720P)


def wan2_2_ti2v_5b() -> WanPreset:
    """Wan2.2-TI2V-5B: 48 latent channels, VAE stride 16, per-token timesteps."""
    return WanPreset(_wan(30, 24, 14336, in_channels=48, out_channels=48), _TI2V, expand_timesteps=True)


def wan2_2_t2v_a14b() -> WanPreset:
    """Wan2.2-T2V-A14B: two 14B experts, the first above noise level 0.875."""
    return WanPreset(_wan(40, 40, 13824), _720P, experts=2, boundary_ratio=0.875)


def wan2_2_i2v_a14b() -> WanPreset:
    """Wan2.2-I2V-A14B: two 14B experts on 36 input channels, no CLIP features, boundary 0.9."""
    return WanPreset(_wan(40, 40, 13824, in_channels=36), _720P, experts=2, boundary_ratio=0.9)


PRESETS = {
    "wan2.1-t2v-1.3b": wan2_1_t2v_1_3b,
    "wan2.1-t2v-14b": wan2_1_t2v_14b,
    "wan2.1-i2v-14b": wan2_1_i2v_14b,
    "wan2.2-ti2v-5b": wan2_2_ti2v_5b,
    "wan2.2-t2v-a14b": wan2_2_t2v_a14b,
    "wan2.2-i2v-a14b": wan2_2_i2v_a14b,
}


def format_of(in_channels: int) -> VideoFormat:
    """The format assumed for a Wan of unknown origin: that of TI2V-5B for 48 input channels, otherwise 480p."""
    return _TI2V if in_channels == 48 else _480P
