"""What the page of memories says of each: when to use it, what is trained, what it holds of a minute of video."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from diffusers import WanTransformer3DModel

from memkit.encoders import FrequencyEncoderConfig
from memkit.injectors import frame_bytes
from memkit.injectors.delta_memory import DeltaMemory, DeltaMemoryConfig
from memkit.injectors.kv_cache import Exact, Integers, Storage
from memkit.injectors.state_space import StateSpaceConfig, StateSpaceMemory
from memkit.retrievers import SurfelRule

FRAMES_PER_SECOND, SECONDS, STRIDE = 16, 60, 4
LATENT_FRAMES = FRAMES_PER_SECOND * SECONDS // STRIDE
CHANNELS, HEIGHT, WIDTH = 16, 60, 104
"""Of the latents of a frame of 832×480."""
BYTES = 2
"""Per number, in bf16."""
CLIPS = 5
"""Reference clips per prompt, as in DiT-Mem."""
WINDOW = 18
"""Cached frames of Self-Forcing's window: 21, less the chunk of 3."""


@dataclass(frozen=True)
class Choice:
    """A memory, as the page shows it."""

    name: str
    use: str
    """When it is the right one."""
    training: str
    held: Callable[[], int]
    """Bytes held of a minute of video."""
    mechanism: str | None = None
    """Of the leaderboard, if it has one."""
    constant: bool = False
    """Whether a longer video needs no more."""
    depth: bool = False
    """Whether it takes the depth of the past, and is measured where the probe gives it."""


@cache
def _model() -> WanTransformer3DModel:
    """Wan2.1 T2V 1.3B without weights."""
    with torch.device("meta"):
        return WanTransformer3DModel(num_attention_heads=12, attention_head_dim=128, num_layers=30, ffn_dim=8960)


def _latents() -> int:
    """All latent frames, each with a pose of 12 numbers."""
    return LATENT_FRAMES * (CHANNELS * HEIGHT * WIDTH * BYTES + 12 * 4)


def _cached(frames: int, storage: Storage = Exact()) -> int:  # noqa: B008  # frozen
    return frames * frame_bytes(_model(), HEIGHT, WIDTH, dtype=torch.bfloat16, storage=storage)


def _surfels() -> int:
    """At most: those of each frame, none of which merge, 80 bytes and one sighting of 16 each; beside the latents."""
    rule = SurfelRule()
    return _latents() + LATENT_FRAMES * rule.columns * (rule.columns * HEIGHT // WIDTH) * (80 + 16)


def _cells() -> int:
    return LATENT_FRAMES * HEIGHT * WIDTH * (32 + CHANNELS * BYTES)


def _tokens() -> int:
    config = FrequencyEncoderConfig.wan_1_3b()
    return CLIPS * config.tokens(21, HEIGHT, WIDTH) * config.dim * BYTES


def _state() -> int:
    _, down, across = _model().config.patch_size
    with torch.device("meta"):
        return StateSpaceMemory(StateSpaceConfig.of(_model())).state_bytes(HEIGHT // down, WIDTH // across)


def _matrices() -> int:
    _, down, across = _model().config.patch_size
    with torch.device("meta"):
        return DeltaMemory(DeltaMemoryConfig.of(_model())).state_bytes(HEIGHT // down, WIDTH // across)


CHOICES = (
    Choice(
        "`FrequencyEncoder` with `SelfAttentionConcat` ([DiT-Mem](dit-mem.md))",
        "reference clips show what should happen",
        "the encoder; the model is frozen",
        _tokens,
        "encoder",
        constant=True,
    ),
    Choice(
        "`FrameContext` (window)",
        "the past is short",
        "the model, with its past in the sequence",
        _latents,
        "window",
    ),
    Choice(
        "`FrameContext` of an `FOVRetriever`",
        "the camera comes back, poses are known and little is hidden",
        "as the window",
        _latents,
        "fov",
    ),
    Choice(
        "`FrameContext` of a `SurfelRetriever` ([VMem](geometry.md))",
        "the camera comes back, poses and depth are known, and walls hide much",
        "as the window",
        _surfels,
        "surfels",
        depth=True,
    ),
    Choice(
        "`LiftedLatents` with `ControlBranch` ([Mirage](geometry.md))",
        "the same, for a past of any length",
        "the branch; the model may be frozen",
        _cells,
        "lifted latents",
        depth=True,
    ),
    Choice(
        "`FrameContext` with packing (FramePack)",
        "the newest frames count most",
        "the model, and projections of packed tokens",
        _latents,
        "framepack",
    ),
    Choice(
        "`RoutedContext` ([Mixture of Contexts](routing.md))",
        "the past is long and each query needs little of it",
        "none for few chunks left out, as the paper has it",
        _latents,
        "routed",
    ),
    Choice(
        "`QueryLayers` ([MemLearner](memlearner.md))",
        "what matters in the past is to be learned, such as what walls hide",
        "the model and its query layers",
        _latents,
        "queries (noise)",
    ),
    Choice(
        "`QueryModule`",
        "comparisons: MemLearner's baseline",
        "the model and the module",
        _latents,
        "query module",
    ),
    Choice(
        "`KVCache` of all frames ([KV cache](kv-cache.md))",
        "the model is causal and the whole past counts",
        "a causal model, by `TeacherForcing`",
        lambda: _cached(LATENT_FRAMES),
        "kv cache",
    ),
    Choice(
        "`KVCache` of all frames in 8 bits ([its parts](kv-parts.md))",
        "the same, and there is less room",
        "the same",
        lambda: _cached(LATENT_FRAMES, Integers(8)),
        "kv cache, int8",
    ),
    Choice(
        "`KVCache` with `PMRoPE` ([ReMind](remind.md))",
        "the same, and the camera looks away",
        "the same, with cameras",
        lambda: _cached(LATENT_FRAMES),
        "kv cache, pm-rope",
    ),
    Choice(
        "`KVCache` with a window (Self-Forcing)",
        "videos of any length whose far past does not count",
        "a causal model",
        lambda: _cached(WINDOW),
        constant=True,
    ),
    Choice(
        "`StateSpaceMemory` ([state space](state-space.md))",
        "videos of any length in constant memory",
        "the memory, and the model with it",
        _state,
        "state space",
        constant=True,
    ),
    Choice(
        "`DeltaMemory` ([state space](state-space.md))",
        "the same, and what was seen is to be corrected; the state does not grow with the size of a frame",
        "the memory, and the model with it",
        _matrices,
        None,
        constant=True,
    ),
)
"""All memories of the page."""
