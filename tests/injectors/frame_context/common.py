"""A small FrameContext, and its references on the stock model."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from memkit.injectors import FrameContext, FrameContextConfig

CONFIG = FrameContextConfig(dim=48, blocks=3)
FRAMES, PAST, HEIGHT, WIDTH = 2, 6, 2, 3  # in tokens
CELLS = HEIGHT * WIDTH
PACKED = dataclasses.replace(CONFIG, packing=((1, 1), (2, 2), (4, 4)))
CLOSE = {"atol": 1e-5, "rtol": 0}


def context(config: FrameContextConfig = CONFIG, cameras: float = 0.0) -> FrameContext:
    """With packing convolutions that differ from the model's and from each other."""
    torch.manual_seed(3)
    frames = FrameContext(config)
    for parameter in frames.cameras.parameters():
        torch.nn.init.normal_(parameter, std=cameras)
    for parameter in frames.packers.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return frames


def call(model, x: dict[str, Tensor], **changes: Tensor) -> Tensor:
    x = {**x, **changes}
    return model(x["p"], x["t"], x["text"], return_dict=False)[0]


def run(model, frames: FrameContext, x: dict[str, Tensor], latents: Tensor | None, **arguments) -> Tensor:
    with frames.attach(model) as attached, attached.chunk(latents, **arguments):
        return call(model, x)


def poses(x: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x[name] for name in ("cameras", "context_cameras")}


def stock_on_all_frames(model, x: dict[str, Tensor], past: Tensor | None = None) -> Tensor:
    """The stock model on the context and P as one video, with one timestep per token.

    ``past`` [2, PAST] holds the timesteps of the context (default: 0).
    """
    times = torch.cat([torch.zeros(2, PAST) if past is None else past, x["t"][:, None].expand(2, FRAMES)], dim=1)
    video = torch.cat([x["c"], x["p"]], dim=2)
    return call(model, x, p=video, t=times.repeat_interleave(CELLS, dim=1))[:, :, PAST:]
