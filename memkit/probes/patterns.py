"""What all probes are made of: orthogonal patterns, level cameras, and random choices."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from memkit.cameras.cameras import Cameras
from memkit.errors import InputError

CHANNELS = 4
"""Latent channels of a frame."""
TEXT_DIM = 16
"""Width of the text embeddings."""
FIELD_OF_VIEW = 30.0
"""Of all cameras, in degrees."""


def fixed_patterns(count: int, size: int) -> Float[Tensor, "patterns channels size size"]:
    """Patterns that are the same in all samples: what a wall looks like, or the states of a process."""
    return codebook(torch.Generator().manual_seed(count), 1, count, size)[0]


def codebook(
    generator: torch.Generator,
    batch: int,
    count: int,
    size: int,
    beside: Float[Tensor, "fixed channels size size"] | None = None,
) -> Float[Tensor, "batch patterns channels size size"]:
    """Random patterns of each sample, orthogonal to each other and to those ``beside``, with entries of mean square 1.

    Raises `InputError` where so many do not fit: there is room for one per number of a frame.
    """
    numbers = CHANNELS * size**2
    before = 0 if beside is None else len(beside)
    if count + before > numbers:
        raise InputError(f"{count + before} orthogonal patterns of {numbers} numbers; use fewer, or larger frames.")
    drawn = torch.randn(batch, numbers, count, generator=generator)
    if beside is not None:
        drawn = torch.cat([beside.flatten(1).T.expand(batch, -1, -1), drawn], dim=2)
    found = torch.linalg.qr(drawn)
    signs = found.R.diagonal(dim1=1, dim2=2).sign()[:, None]  # otherwise some entries would have the same sign always
    unit = (found.Q * signs)[..., before:].mT
    return unit.unflatten(2, (CHANNELS, size, size)) * numbers**0.5


def looking(yaw: Float[Tensor, "*batch"], eye: Float[Tensor, "*batch 3"] | None = None) -> Cameras:
    """Level cameras turned by ``yaw`` radians from +x, in float64, by default at the origin."""
    yaw = yaw.double()
    ahead = torch.stack([yaw.cos(), yaw.sin(), torch.zeros_like(yaw)], dim=-1)
    eye = torch.zeros_like(ahead) if eye is None else eye.double()
    return Cameras.look_at(eye, eye + ahead, FIELD_OF_VIEW)


def headings(generator: torch.Generator, batch: int, count: int) -> Float[Tensor, "batch count"]:
    """Yaws at equal angles around the camera, from a random one, in random order."""
    turned = torch.arange(count) / count + torch.rand(batch, 1, generator=generator)
    return 2 * torch.pi * turned.gather(1, shuffled(generator, batch, count))


def shuffled(generator: torch.Generator, batch: int, count: int) -> Int[Tensor, "batch count"]:
    """A random order of ``count`` items for each sample."""
    return torch.rand(batch, count, generator=generator).argsort(dim=1)


def pick(
    patterns: Float[Tensor, "batch patterns channels height width"], numbers: Int[Tensor, "batch frames"]
) -> Float[Tensor, "batch channels frames height width"]:
    """Frames that show the patterns of these numbers."""
    return patterns[torch.arange(len(numbers))[:, None], numbers].movedim(1, 2)


def no_text(batch: int) -> Float[Tensor, "batch 1 text_dim"]:
    """The caption of a probe without one."""
    return torch.zeros(batch, 1, TEXT_DIM)


def empty(batch: int, frames: int, size: int) -> Float[Tensor, "batch channels frames size size"]:
    """Frames that show nothing."""
    return torch.zeros(batch, CHANNELS, frames, size, size)


def in_order(
    order: Int[Tensor, "batch frames"], latents: Float[Tensor, "batch channels frames height width"], cameras: Cameras
) -> tuple[Float[Tensor, "batch channels frames height width"], Cameras]:
    """Frames and their cameras in another order, of each sample."""
    rows = torch.arange(len(order))[:, None]
    latents = latents.movedim(2, 1)[rows, order].movedim(1, 2)
    return latents, Cameras(cameras.c2w[rows, order], cameras.intrinsics[rows, order])


def joined(*cameras: Cameras) -> Cameras:
    """The cameras [batch, …] of several runs of frames, one after the other."""
    return Cameras(torch.cat([each.c2w for each in cameras], 1), torch.cat([each.intrinsics for each in cameras], 1))


def then_as_before(order: Int[Tensor, "batch mixed"], count: int) -> Int[Tensor, "batch count"]:
    """An order of the first frames, after which the others up to ``count`` follow as they are."""
    batch, mixed = order.shape
    return torch.cat([order, torch.arange(mixed, count).expand(batch, -1)], dim=1)
