"""Single frames of a `History`, and selections of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from memkit.cameras.cameras import Cameras
from memkit.cameras.checks import check_cameras
from memkit.checks import MOST, check_finite, check_list, check_whole, shown
from memkit.display import with_shapes
from memkit.errors import InputError


class Selection(NamedTuple):
    """Frames chosen for each sample. ``cameras`` [batch, k] is None where the history has none."""

    latents: Float[Tensor, "batch channels k height width"]
    cameras: Cameras | None
    times: Int[Tensor, "batch k"]

    __repr__ = with_shapes


class Frame(NamedTuple):
    """One latent frame of all samples: tensors [B, …], the latent, then c2w and intrinsics if there are cameras."""

    time: int
    tensors: tuple[Tensor, ...]


def frames_of(latents: Tensor, cameras: Cameras | None, times: Sequence[int]) -> list[Frame]:
    """The frames of latents that are to be added, checked, as views."""
    check_finite("The latents", latents, "[B, C, F, H, W]")
    if not latents.numel():
        raise InputError(f"Latents must be [B, C, F, H, W] with one frame or more, not {list(latents.shape)}.")
    batch, _, count = latents.shape[:3]
    times = check_list("times", times, "whole numbers")
    if len(times) != count or any(isinstance(t, bool) or not isinstance(t, int) for t in times):
        raise InputError(f"{count} frames need {count} times, which are integers, not {shown(times)}.")
    for time in times:
        check_whole("A time", time, -MOST)
    fields = [latents.unbind(2)]
    if cameras is not None:
        if cameras.c2w.shape != (batch, count, 4, 4) or cameras.intrinsics.shape != (batch, count, 4):
            raise InputError(
                f"Latents [{batch}, …, {count}, …] need cameras [{batch}, {count}], not {list(cameras.c2w.shape[:-2])}."
            )
        check_cameras(cameras, "The cameras [sample, frame]", unknown_focal=True)
        fields += [cameras.c2w.unbind(1), cameras.intrinsics.unbind(1)]
    return [Frame(time, tensors) for time, tensors in zip(times, zip(*fields, strict=True), strict=True)]


def copy_to(x: Tensor, device: torch.device) -> Tensor:
    return x.to(device, copy=True).contiguous()


def bytes_of(frame: Frame) -> int:
    return sum(x.nbytes for x in frame.tensors)


def layout_of(frame: Frame) -> str:
    tensors = ", ".join(f"{list(x.shape)} {x.dtype}" for x in frame.tensors)
    return tensors + ("" if frame.tensors[1:] else " without cameras")
