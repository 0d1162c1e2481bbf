"""How large the cache of a stream is."""

from __future__ import annotations

import torch

from memkit.backbones.wan import WanBackbone
from memkit.checks import check_budget, check_room, check_whole, shown
from memkit.errors import InputError
from memkit.injectors.kv_cache.cache import frame_bytes
from memkit.injectors.kv_cache.table import BudgetError
from memkit.streaming.config import StreamConfig

MOST_CELLS = 10_000
"""The largest height and width of latents."""


def window_bytes(
    backbone: WanBackbone, config: StreamConfig, videos: int = 1, size: tuple[int, int] | None = None
) -> int:
    """The smallest budget of a `Stream` with ``config.window``, in bytes: what it keeps from one chunk to the next.

    Args:
        videos: number of videos in the batch.
        size: height and width of the latents; by default those of the backbone's video format.

    Raises:
        InputError: the config has no window, so that chunks attend to everything; or there are no videos, or the size
            is none of latents of this model.
    """
    check_whole("videos", videos, 1)
    if config.window is None:
        raise InputError(
            "Without a window a stream attends to all its frames; give budget_bytes for as many as needed."
        )
    size = latent_size(backbone) if size is None else checked_size(size, backbone)
    longest = max(config.chunk, config.first or 0)
    frames = max(config.window - config.chunk, config.sink + longest)
    branches = 1 if config.guidance_scale == 1 else 2
    return frames * branches * sum(frame_bytes(model, *size, videos) for model in backbone.transformers)


def check_chunk(
    budget_bytes: int, frames: int, backbone: WanBackbone, config: StreamConfig, videos: int, size: tuple[int, int]
) -> None:
    """Raises `BudgetError` where a chunk of so many frames cannot fit, in whatever dtype its keys and values come."""
    branches = 1 if config.guidance_scale == 1 else 2
    models = backbone.transformers
    needed = frames * branches * sum(frame_bytes(model, *size, videos, torch.uint8) for model in models)
    if needed > budget_bytes:
        raise BudgetError(
            f"The budget of {budget_bytes:,} bytes holds no chunk of {frames:,} frames of {videos:,} videos, which "
            f"needs {needed:,} at least; give more, or make shorter chunks."
        )


def latent_size(backbone: WanBackbone) -> tuple[int, int]:
    """Height and width of the latents of the backbone's video format."""
    stride = backbone.pipeline().vae.config.scale_factor_spatial
    return backbone.video_format.height // stride, backbone.video_format.width // stride


def checked_size(size: tuple[int, int], backbone: WanBackbone) -> tuple[int, int]:
    """``size``; raises `InputError` unless it is a height and a width of latents that the patches of the model fit."""
    _, down, across = backbone.transformer.config.patch_size
    if not isinstance(size, tuple | list) or len(size) != 2:
        raise InputError(f"size is {shown(size)}; give height and width of the latents.")
    check_whole("size[0], the height of the latents,", size[0], 1, MOST_CELLS)
    check_whole("size[1], the width of the latents,", size[1], 1, MOST_CELLS)
    if size[0] % down or size[1] % across:
        raise InputError(f"size is {shown(size)}; give multiples of the model's patches, {down} and {across}.")
    return size[0], size[1]


def checked_budget(
    budget_bytes: int | None, backbone: WanBackbone, config: StreamConfig, videos: int, size: tuple[int, int]
) -> int:
    """The budget, by default that of the window.

    Raises `InputError` where the window does not fit in it, or it does not fit in the memory of the device.
    """
    if budget_bytes is not None:
        check_budget("budget_bytes", budget_bytes)
    if config.window is None and budget_bytes is not None:
        return budget_bytes
    needed = window_bytes(backbone, config, videos, size)
    if budget_bytes is not None and budget_bytes < needed:
        raise InputError(
            f"A window of {config.window} frames needs a budget of {needed} bytes, not {budget_bytes}; raise it, leave "
            "it out, or give a smaller window."
        )
    check_room(f"A window of {config.window} frames of {videos} videos", needed, backbone.device)
    return needed if budget_bytes is None else budget_bytes
