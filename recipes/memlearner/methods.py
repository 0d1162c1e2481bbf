"""The method of a run: made from its settings, saved and loaded, started from another run's."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from memkit.backbones import WanBackbone
from memkit.errors import InputError
from memkit.injectors import (
    FrameContext,
    FrameContextConfig,
    QueryLayers,
    QueryLayersConfig,
    QueryModule,
    QueryModuleConfig,
)
from memkit.pretrained import Pretrained
from memkit.rollout import (
    ContextMethod,
    LearnedContext,
    NewestContext,
    NoContext,
    PackedContext,
    RetrievedContext,
    SeparateContext,
)
from recipes.memlearner.presets import Config

FRAMEPACK = ((1, 1), (2, 2), (16, 4))
"""FramePack's: 1 latent frame as it is, 2 in patches twice as large, 16 in patches four times as large."""


def latent_frames(backbone: WanBackbone) -> int:
    """Of a chunk."""
    return (backbone.video_format.num_frames - 1) // backbone.pipeline().vae.config.scale_factor_temporal + 1


def make_method(config: Config, backbone: WanBackbone) -> ContextMethod:
    """Fresh, in fp32, drawn from the seed, on the backbone's device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return _method(config, backbone).to(backbone.device)


def _method(config: Config, backbone: WanBackbone) -> ContextMethod:
    model = backbone.transformer.config
    past = config.chunks * latent_frames(backbone)
    if config.method == "learned":
        made = QueryLayersConfig(
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
        return LearnedContext(QueryLayers(made), past)
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


def parts_of(method: ContextMethod) -> dict[str, Pretrained]:
    """What a method trains, by the name of its folder."""
    return {name: part for name, part in method.named_children() if isinstance(part, Pretrained)}


def load_method(config: Config, backbone: WanBackbone, folder: Path) -> ContextMethod:
    """The method that training has saved. Raises `InputError` for a folder of another method or of other settings."""
    method = make_method(config, backbone)
    for name, part in parts_of(method).items():
        if not (folder / name / "config.json").exists():
            raise InputError(f"{folder} holds no {config.method!r} method: there is no {folder / name}.")
        saved = type(part).from_pretrained(folder / name)
        if saved.config != part.config:  # type: ignore[attr-defined]
            raise InputError(f"{folder / name} was trained with {saved.config}, the settings say {part.config}.")  # type: ignore[attr-defined]
        part.load_state_dict(saved.state_dict())  # type: ignore[attr-defined]
    return method


def camera_encoders(method: ContextMethod) -> nn.ModuleDict:
    """Of the chunk's own frames, which every method has, by the kind of the poses."""
    part = method.query if isinstance(method, LearnedContext) else method.context
    assert isinstance(part, QueryLayers | FrameContext)
    return part.cameras


def start_from(method: ContextMethod, folder: Path) -> None:
    """Take over the camera encoders of another run, whatever its method; kinds that it does not know stay fresh."""
    for name, kind in (("query", QueryLayers), ("context", FrameContext)):
        if (folder / name / "config.json").exists():
            known = kind.from_pretrained(folder / name).cameras
            for annotation, encoder in camera_encoders(method).items():
                if annotation in known:
                    encoder.load_state_dict(known[annotation].state_dict())
            return
    raise InputError(f"{folder} holds no method of this recipe; give the folder of a run that was trained.")
