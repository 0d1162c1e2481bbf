"""Everything that attaches to a model, each with a forward that it changes: for tests over all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ModelMixin
from torch import Tensor, nn

from memkit.cameras import CameraPath, Cameras
from memkit.frame_graph import FrameGraph
from memkit.generation import GuidedMemory
from memkit.injectors import (
    FrameContext,
    FrameContextConfig,
    KVCache,
    QueryLayers,
    QueryLayersConfig,
    SelfAttentionConcat,
    TeacherForcing,
    frame_bytes,
)
from memkit.memory import Memory
from memkit.positions import PMRoPE, PMRoPEConfig, PRoPE
from tests.helpers.random_wan import SMALL, random_transformer

FRAMES = 3


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def call(model: Any, x: Tensor | None = None, timestep: Tensor | None = None) -> Tensor:
    """A plain forward of two samples of three frames."""
    x = seeded(2, 16, FRAMES, 4, 4, seed=1) if x is None else x
    text = seeded(2, 6, SMALL["text_dim"], seed=9)
    timestep = torch.tensor([700.0, 150.0]) if timestep is None else timestep
    return model(x, timestep, text, return_dict=False)[0]


@dataclass(frozen=True)
class Attachable:
    """A thing, and a forward with it attached, of a model as a caller has it (wrapped, perhaps)."""

    thing: Any
    forward: Callable[[Any, Any], Tensor]


def _cameras() -> CameraPath:
    rotation = torch.linalg.qr(seeded(1, FRAMES, 3, 3, seed=3)).Q
    c2w = torch.eye(4).repeat(1, FRAMES, 1, 1)
    c2w[..., :3, :3] = rotation * torch.linalg.det(rotation)[..., None, None]
    c2w[..., :3, 3] = seeded(1, FRAMES, 3, seed=5)
    return CameraPath.of(Cameras(c2w, torch.full((1, FRAMES, 4), 0.7)))


def _drawn(module: nn.Module) -> Any:
    """A module whose parameters, zero before training, do something."""
    for i, parameter in enumerate(module.parameters()):
        parameter.data = 0.15 * seeded(*parameter.shape, seed=20 + i)
    return module.requires_grad_(False)


def _tokens() -> Memory:
    return Memory(seeded(1, 5, 48, seed=4))


def memory_tokens() -> Attachable:
    return Attachable(SelfAttentionConcat(_tokens()), lambda model, _: call(model))


def guided_memory() -> Attachable:
    def forward(model: Any, _: Any) -> Tensor:
        with _innermost(model).cache_context("cond"):
            return call(model)

    return Attachable(GuidedMemory(SelfAttentionConcat(_tokens()), "conditional"), forward)


def kv_cache() -> Attachable:
    cache = KVCache(40 * frame_bytes(random_transformer(), 4, 4, 2))

    def forward(model: Any, attached: Any) -> Tensor:
        cache.reset()
        with torch.no_grad(), attached.chunk(range(FRAMES), write=True):
            call(model, seeded(2, 16, FRAMES, 4, 4, seed=7))
        with attached.chunk([5, 6, 7]):
            return call(model)

    return Attachable(cache, forward)


def frame_context() -> Attachable:
    context = _drawn(FrameContext(FrameContextConfig.of(random_transformer())))
    frames, poses = seeded(2, 16, 2, 4, 4, seed=2), seeded(1, FRAMES, 12, seed=6)

    def forward(model: Any, attached: Any) -> Tensor:
        with attached.chunk(frames, context_positions=[-7, -1], cameras=poses):
            return call(model)

    return Attachable(context, forward)


def query_layers() -> Attachable:
    query = _drawn(QueryLayers(QueryLayersConfig(dim=48, blocks=3, layers=2)))
    frames, poses = seeded(2, 16, 2, 4, 4, seed=2), seeded(1, FRAMES, 12, seed=6)

    def forward(model: Any, attached: Any) -> Tensor:
        with attached.chunk(frames, cameras=poses):
            return call(model)

    return Attachable(query, forward)


def teacher_forcing() -> Attachable:
    graph = FrameGraph.chunks(FRAMES, chunk=1)

    def forward(model: Any, attached: Any) -> Tensor:
        x = seeded(2, 16, 2 * FRAMES, 4, 4, seed=1)
        with attached.chunk(graph):
            return call(model, x, torch.tensor([[0.0] * FRAMES + [600.0] * FRAMES] * 2))

    return Attachable(TeacherForcing(), forward)


def pm_rope() -> Attachable:
    return _posed(_drawn(PMRoPE(PMRoPEConfig.of(random_transformer()))))


def prope() -> Attachable:
    return _posed(PRoPE())


def _posed(positions: Any) -> Attachable:
    def forward(model: Any, attached: Any) -> Tensor:
        with attached.chunk(_cameras()):
            return call(model)

    return Attachable(positions, forward)


def _innermost(model: nn.Module) -> Any:
    return next(module for module in model.modules() if isinstance(module, ModelMixin))


ATTACHABLES: dict[str, Callable[[], Attachable]] = {
    make.__name__: make
    for make in (
        memory_tokens,
        guided_memory,
        kv_cache,
        frame_context,
        query_layers,
        teacher_forcing,
        pm_rope,
        prope,
    )
}
