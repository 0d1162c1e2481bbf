"""Everything that attaches to a model, each with a forward that it changes: for tests over all of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ModelMixin
from torch import Tensor, nn

from memkit.cameras import CameraPath, Cameras
from memkit.encoders import LowPass
from memkit.frame_graph import FrameGraph
from memkit.generation import GuidedMemory
from memkit.injectors import (
    BlockLayers,
    ControlBranch,
    ControlBranchConfig,
    DeltaMemory,
    DeltaMemoryConfig,
    FrameContext,
    FrameContextConfig,
    FrameVisibility,
    FrequencyBlend,
    KVCache,
    QueryLayers,
    QueryLayersConfig,
    RoutedContext,
    SelfAttentionConcat,
    StateSpaceConfig,
    StateSpaceMemory,
    TeacherForcing,
    TemporalLayer,
    TextRegions,
    frame_bytes,
    sliding_window,
)
from memkit.injectors.echo_memory import EchoConfig, EchoMemory
from memkit.memory import Memory
from memkit.positions import PMRoPE, PMRoPEConfig, PRoPE, TokenPositions
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
    """A thing, and a forward with it attached, of a model as a caller has it (wrapped, perhaps).

    ``inside`` opens what its forwards need, of a model and of what ``attach`` returned: a chunk, most often.
    """

    thing: Any
    inside: Callable[[Any, Any], AbstractContextManager] = lambda model, attached: nullcontext()
    inputs: tuple[Tensor, Tensor] | None = None

    def forward(self, model: Any, attached: Any) -> Tensor:
        """A forward of two samples of three frames."""
        with self.inside(model, attached):
            return call(model, *(self.inputs or ()))


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


def _width(changes: dict[str, Any]) -> int:
    shape = {**SMALL, **changes}
    return shape["num_attention_heads"] * shape["attention_head_dim"]


def _latents(changes: dict[str, Any], frames: int, seed: int) -> Tensor:
    return seeded(2, {**SMALL, **changes}["in_channels"], frames, 4, 4, seed=seed)


def _tokens(changes: dict[str, Any]) -> Memory:
    return Memory(seeded(1, 5, _width(changes), seed=4))


def memory_tokens(**changes: Any) -> Attachable:
    return Attachable(SelfAttentionConcat(_tokens(changes)))


def guided_memory(**changes: Any) -> Attachable:
    injector = SelfAttentionConcat(_tokens(changes))
    return Attachable(GuidedMemory(injector, "conditional"), lambda model, _: _innermost(model).cache_context("cond"))


def kv_cache(**changes: Any) -> Attachable:
    cache = KVCache(40 * frame_bytes(random_transformer(**changes), 4, 4, 2))

    def after_a_chunk(model: Any, attached: Any) -> AbstractContextManager:
        cache.reset()
        with torch.no_grad(), attached.chunk(range(FRAMES), write=True):
            call(model, _latents(changes, FRAMES, seed=7))
        return attached.chunk([5, 6, 7])

    return Attachable(cache, after_a_chunk)


def frame_context(**changes: Any) -> Attachable:
    context = _drawn(FrameContext(FrameContextConfig.of(random_transformer(**changes))))
    frames, poses = _latents(changes, 2, seed=2), seeded(1, FRAMES, 12, seed=6)
    return Attachable(context, lambda _, on: on.chunk(frames, context_positions=[-7, -1], cameras=poses))


def query_layers(**changes: Any) -> Attachable:
    blocks = {**SMALL, **changes}["num_layers"]
    query = _drawn(QueryLayers(QueryLayersConfig(dim=_width(changes), blocks=blocks, layers=min(2, blocks))))
    frames, poses = _latents(changes, 2, seed=2), seeded(1, FRAMES, 12, seed=6)
    return Attachable(query, lambda _, on: on.chunk(frames, cameras=poses))


def teacher_forcing(**changes: Any) -> Attachable:
    graph = FrameGraph.chunks(FRAMES, chunk=1)
    streams = seeded(2, 16, 2 * FRAMES, 4, 4, seed=1), torch.tensor([[0.0] * FRAMES + [600.0] * FRAMES] * 2)
    return Attachable(TeacherForcing(), lambda _, on: on.chunk(graph), streams)


def state_space(**changes: Any) -> Attachable:
    memory = _drawn(StateSpaceMemory(StateSpaceConfig.of(random_transformer(**changes), every=2)))

    def after_a_chunk(model: Any, attached: Any) -> AbstractContextManager:
        attached.state.reset()
        with torch.no_grad(), attached.chunk(write=True):
            call(model, _latents(changes, FRAMES, seed=7))
        return attached.chunk()

    return Attachable(memory, after_a_chunk)


def pm_rope(**changes: Any) -> Attachable:
    positions = _drawn(PMRoPE(PMRoPEConfig.of(random_transformer(**changes))))
    return Attachable(positions, lambda _, on: on.chunk(_cameras()))


def prope(**changes: Any) -> Attachable:
    return Attachable(PRoPE(), lambda _, on: on.chunk(_cameras()))


def routed_context(**changes: Any) -> Attachable:
    return Attachable(RoutedContext(1))


def control_branch(**changes: Any) -> Attachable:
    branch = _drawn(ControlBranch(ControlBranchConfig.of(random_transformer(**changes), channels=3)))
    return Attachable(branch, lambda _, on: on.chunk(seeded(1, 3, FRAMES, 4, 4, seed=8)))


def matrix_state(**changes: Any) -> Attachable:
    memory = _drawn(DeltaMemory(DeltaMemoryConfig.of(random_transformer(**changes), every=2, window=1)))
    return Attachable(memory, state_space().inside)


def echo_memory(**changes: Any) -> Attachable:
    shape = {**SMALL, **changes}
    config = EchoConfig(
        _width(changes), shape["num_layers"], shape["num_attention_heads"], place="prefix", state_every=4
    )
    poses = seeded(1, FRAMES + 2, 12, seed=6)
    return Attachable(
        _drawn(EchoMemory(config)),
        lambda _, on: on.chunk(poses[:, 2:], _latents(changes, 2, seed=2), poses[:, :2]),
    )


def frame_visibility(**changes: Any) -> Attachable:
    return Attachable(FrameVisibility(sliding_window(1)))


def frequency_blend(**changes: Any) -> Attachable:
    return Attachable(FrequencyBlend(sliding_window(1), LowPass(0.1, 0.1)))


def block_layers(**changes: Any) -> Attachable:
    return Attachable(_drawn(BlockLayers({0: TemporalLayer(_width(changes), 8)})))


def token_positions(**changes: Any) -> Attachable:
    return Attachable(TokenPositions(torch.arange(4).flip(0).expand(FRAMES, -1)))


def text_regions(**changes: Any) -> Attachable:
    index = torch.arange(4 * FRAMES).view(FRAMES, 4) % 2
    return Attachable(TextRegions(index, [seeded(1, 5, SMALL["text_dim"], seed=3)], context=None))


def _innermost(model: nn.Module) -> Any:
    return next(module for module in model.modules() if isinstance(module, ModelMixin))


REPRESENTATIVE_ROWS = ("lora", "sequential_offload", "checkpointing")
"""Features that `FURTHER` are tested with, one per way to change how a model runs; and with FirstBlockCache."""

ATTACHABLES: dict[str, Callable[..., Attachable]] = {
    make.__name__: make
    for make in (
        memory_tokens,
        guided_memory,
        kv_cache,
        frame_context,
        query_layers,
        teacher_forcing,
        state_space,
        pm_rope,
        prope,
    )
}
"""With every feature of the compatibility matrix."""

FURTHER: dict[str, Callable[..., Attachable]] = {
    make.__name__: make
    for make in (
        routed_context,
        control_branch,
        matrix_state,
        echo_memory,
        frame_visibility,
        frequency_blend,
        block_layers,
        token_positions,
        text_regions,
    )
}
"""With the rows of `REPRESENTATIVE_ROWS`."""

EVERYTHING = {**ATTACHABLES, **FURTHER}
