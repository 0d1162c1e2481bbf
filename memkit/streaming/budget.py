"""How large the cache of a stream is."""

from __future__ import annotations

from memkit.backbones.wan import WanBackbone
from memkit.errors import InputError
from memkit.injectors.kv_cache.cache import frame_bytes
from memkit.streaming.config import StreamConfig


def window_bytes(
    backbone: WanBackbone, config: StreamConfig, videos: int = 1, size: tuple[int, int] | None = None
) -> int:
    """The smallest budget of a `Stream` with ``config.window``, in bytes: what it keeps from one chunk to the next.

    Args:
        videos: number of videos in the batch.
        size: height and width of the latents; by default those of the backbone's video format.

    Raises:
        InputError: the config has no window, so that chunks attend to everything.
    """
    if config.window is None:
        raise InputError(
            "Without a window a stream attends to all its frames; give budget_bytes for as many as needed."
        )
    size = latent_size(backbone) if size is None else size
    longest = max(config.chunk, config.first or 0)
    frames = max(config.window - config.chunk, config.sink + longest)
    branches = 1 if config.guidance_scale == 1 else 2
    return frames * branches * sum(frame_bytes(model, *size, videos) for model in backbone.transformers)


def latent_size(backbone: WanBackbone) -> tuple[int, int]:
    """Height and width of the latents of the backbone's video format."""
    stride = backbone.pipeline().vae.config.scale_factor_spatial
    return backbone.video_format.height // stride, backbone.video_format.width // stride


def checked_budget(
    budget_bytes: int | None, backbone: WanBackbone, config: StreamConfig, videos: int, size: tuple[int, int]
) -> int:
    """The budget, by default that of the window. Raises `InputError` where the window does not fit in it."""
    if config.window is None and budget_bytes is not None:
        return budget_bytes
    needed = window_bytes(backbone, config, videos, size)
    if budget_bytes is not None and budget_bytes < needed:
        raise InputError(
            f"A window of {config.window} frames needs a budget of {needed} bytes, not {budget_bytes}; raise it, leave "
            "it out, or give a smaller window."
        )
    return needed if budget_bytes is None else budget_bytes
