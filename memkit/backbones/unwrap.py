"""Find the Wan transformers in a transformer, also a wrapped or compiled one, a backbone or a pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffusers import DiffusionPipeline, WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import nn

from memkit.backbones.wan import WanBackbone
from memkit.backbones.wan_attention import GroupedSelfAttention
from memkit.errors import InputError

Attachable = nn.Module | WanBackbone | DiffusionPipeline
"""A Wan transformer, also compiled or wrapped (DDP, PEFT); or a backbone or pipeline, which stands for all its
experts."""


def wans_of(models: Sequence[Attachable]) -> list[WanTransformer3DModel]:
    """The Wan transformers in ``models``, unwrapped by `wan_of`; all experts of a backbone or pipeline.

    Raises:
        InputError: there are none, one is repeated, or one is not a Wan transformer.
    """
    transformers = [wan_of(transformer) for model in models for transformer in _experts(model)]
    if not transformers or len({id(transformer) for transformer in transformers}) != len(transformers):
        raise InputError("attach() needs transformers, each once: attach(pipe) or attach(pipe.transformer).")
    return transformers


def wan_of(model: object) -> WanTransformer3DModel:
    """The Wan transformer in ``model``, unwrapped from ``torch.compile``, DDP, DataParallel and PEFT.

    Raises:
        InputError: it is not a Wan transformer, or it has custom attention processors.
    """
    inner = _unwrapped(model)
    if not isinstance(inner, WanTransformer3DModel):
        raise InputError(
            f"Memory attaches to a diffusers WanTransformer3DModel, not to {type(inner).__name__}; "
            "give a pipeline, pipe.transformer, or a WanBackbone."
        )
    for i, block in enumerate(inner.blocks):
        processor = block.attn1.processor
        if type(processor) not in (WanAttnProcessor, GroupedSelfAttention):
            raise InputError(
                f"blocks[{i}].attn1 has the processor {type(processor).__name__}, which memory would replace; "
                "set it back to WanAttnProcessor() first."
            )
    return inner


def _experts(model: Any) -> Sequence[object]:
    if isinstance(model, WanBackbone):
        return model.transformers
    if isinstance(model, DiffusionPipeline):
        experts = (getattr(model, name, None) for name in ("transformer", "transformer_2"))
        return [expert for expert in experts if expert is not None]
    return [model]


def _unwrapped(model: Any) -> Any:
    """The model without its wrappers, which may be nested."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(model, nn.Module) and "_orig_mod" in model._modules:  # torch.compile
            model = model._orig_mod
        elif isinstance(model, nn.Module) and hasattr(model, "get_base_model"):  # a PeftModel
            model = model.get_base_model()
        else:
            return model
