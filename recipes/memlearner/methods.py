"""The memory method of a run, which is created from its settings or loaded."""

from __future__ import annotations

from pathlib import Path

import torch

from memkit.backbones import WanBackbone
from memkit.injectors import (
    FrameContext,
    FrameContextConfig,
    QueryLayers,
    QueryLayersConfig,
    QueryModule,
    QueryModuleConfig,
)
from memkit.rollout import (
    ContextMethod,
    LearnedContext,
    NewestContext,
    NoContext,
    PackedContext,
    RetrievedContext,
    SeparateContext,
)
from memkit.rollout.saved import load_parts
from recipes.memlearner.presets import Config

FRAMEPACK = ((1, 1), (2, 2), (16, 4))
"""Packing of FramePack: 1 latent frame as it is, 2 in patches twice as large, 16 in patches four times as large."""


def latent_frames(backbone: WanBackbone) -> int:
    """Number of latent frames per chunk."""
    return (backbone.video_format.num_frames - 1) // backbone.pipeline().vae.config.scale_factor_temporal + 1


def make_method(config: Config, backbone: WanBackbone) -> ContextMethod:
    """A new method in fp32 on the device of the backbone, initialised from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return _method(config, backbone).to(backbone.device)


def _method(config: Config, backbone: WanBackbone) -> ContextMethod:
    model = backbone.transformer.config
    past = config.chunks * latent_frames(backbone)
    if config.method == "learned":
        queries = QueryLayersConfig(
            dim=backbone.width,
            blocks=model.num_layers,
            layers=config.layers,
            query=config.query,
            query_time=config.query_time,
            context_time=config.context_time,
            query_sees_prediction=config.query_sees_prediction,
            query_sees_query=config.query_sees_query,
            cameras=config.annotations,
        )
        return LearnedContext(QueryLayers(queries), past)
    packing = FRAMEPACK if config.method == "framepack" else ()
    sizes = FrameContextConfig.of(backbone.transformer, packing, bool(packing), config.annotations)
    context = FrameContext(sizes)
    if config.method == "cam":
        return RetrievedContext(context, config.frames)
    if config.method == "window":
        return NewestContext(context, config.frames, config.history_guidance)
    if config.method == "framepack":
        return PackedContext(context.initialise(backbone.transformer), past)
    if config.method == "separate":
        module = QueryModuleConfig(
            layers=config.layers,
            heads=model.num_attention_heads,
            head_dim=model.attention_head_dim,
            ffn_dim=model.ffn_dim,
            channels=model.in_channels,
            text_dim=model.text_dim,
            cameras=config.annotations,
        )
        return SeparateContext(QueryModule(module), context, past)
    return NoContext(context)


def load_method(config: Config, backbone: WanBackbone, folder: Path) -> ContextMethod:
    """Load a trained method. Raises `InputError` if ``folder`` has another method or other settings."""
    load_parts(method := make_method(config, backbone), folder)
    return method
