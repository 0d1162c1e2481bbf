"""Parts that memkit trains: encoders with gates, query layers, camera positions, context frames."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from memkit import (
    FrameContext,
    FrameContextConfig,
    FrequencyEncoder,
    FrequencyEncoderConfig,
    MemoryGate,
    PMRoPE,
    PMRoPEConfig,
    QueryLayers,
    QueryLayersConfig,
    load_encoder,
)
from memkit.rollout import LearnedContext
from memkit.rollout.saved import load_parts, parts_of
from tests.faults.kinds import FileKind

WHOLE = "a file of another object of the same settings is as whole as this one"


def seeded_weights(module: nn.Module, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return module


def small_encoder(seed: int = 0) -> FrequencyEncoder:
    sizes = {"latent_channels": 4, "dim": 16, "hidden": 8, "width": 16, "heads": 2, "layers": 1}
    encoder = FrequencyEncoder(FrequencyEncoderConfig(**sizes, stem_stride=(1, 1, 1), patch=(1, 2, 2)))
    encoder.gate = MemoryGate(2, 2, 0.1)
    return seeded_weights(encoder, seed)


def query_layers() -> QueryLayers:
    return QueryLayers(QueryLayersConfig(dim=48, blocks=3, layers=1, query="learned", query_shape=(4, 1, 2, 2)))


def pm_rope() -> PMRoPE:
    return PMRoPE(PMRoPEConfig(layers=2, heads=2, head_dim=8))


def frame_context() -> FrameContext:
    return FrameContext(FrameContextConfig(dim=16, blocks=2, channels=4, packing=((1, 1), (2, 2))))


def rollout_method() -> LearnedContext:
    return LearnedContext(query_layers(), 6)


def _part(name: str, build: Callable[[], Any]) -> FileKind:
    def make(folder: Path, seed: int) -> None:
        seeded_weights(build(), seed).save_pretrained(folder)

    def use(folder: Path) -> object:
        part = type(build()).from_pretrained(folder)
        return part.config, part

    return FileKind(name, make, use, ("config.json", "model.safetensors"), {"*": {"swap"}}, WHOLE)


def make_encoder(folder: Path, seed: int) -> None:
    small_encoder(seed).save_pretrained(folder)


def use_encoder(folder: Path) -> object:
    encoder = load_encoder(folder)
    return encoder.config, encoder


def make_rollout(folder: Path, seed: int) -> None:
    method = seeded_weights(rollout_method(), seed)
    for name, part in parts_of(method).items():
        part.save_pretrained(folder / name)


def use_rollout(folder: Path) -> object:
    method = rollout_method()
    load_parts(method, folder)
    return method


KINDS = (
    FileKind("encoder with gate", make_encoder, use_encoder, blind={"model.safetensors": {"swap"}}, why_blind=WHOLE),
    _part("query layers", query_layers),
    _part("PM-RoPE", pm_rope),
    _part("frame context", frame_context),
    FileKind("parts of a rollout method", make_rollout, use_rollout, blind={"*": {"swap"}}, why_blind=WHOLE),
)
