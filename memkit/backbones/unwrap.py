"""Find the transformers in a transformer, also a wrapped or compiled one, a backbone or a pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffusers import DiffusionPipeline, ModularPipeline
from torch import nn

from memkit.backbones.adapters.choice import adapter_of
from memkit.backbones.attention_processor import GroupedSelfAttention
from memkit.backbones.protocol import Model
from memkit.backbones.wan import WanBackbone
from memkit.errors import InputError

Attachable = nn.Module | WanBackbone | DiffusionPipeline | ModularPipeline
"""A transformer, also compiled or wrapped (DDP, PEFT); or a backbone or pipeline (also a modular one), which stands for
all its experts."""


def transformers_of(models: Sequence[Attachable], kind: str) -> list[Model]:
    """The transformers in ``models``, unwrapped by `transformer_of`; all experts of a backbone or pipeline.

    Raises:
        InputError: there are none, one is repeated, or one has no adapter or cannot have this kind of attachment.
    """
    transformers = [transformer_of(transformer) for model in models for transformer in _experts(model)]
    if not transformers or len({id(transformer) for transformer in transformers}) != len(transformers):
        raise InputError("attach() needs transformers, each once: attach(pipe) or attach(pipe.transformer).")
    for transformer in transformers:
        check_supported(transformer, kind)
    return transformers


def check_supported(model: Model, kind: str) -> None:
    """Raise `InputError`, with the adapter's reason, if the model cannot have this kind of attachment."""
    if (reason := adapter_of(model).why_not(model, kind)) is not None:
        name = type(model).__name__
        raise InputError(f"{kind[0].upper()}{kind[1:]} cannot be attached to a {name}: {reason}.")


def transformer_of(model: object) -> Model:
    """The transformer in ``model``, unwrapped from ``torch.compile``, DDP, DataParallel and PEFT.

    Raises:
        InputError: it is of a class without an adapter, or it has custom attention processors.
    """
    inner = _unwrapped(model)
    adapter = adapter_of(inner)
    for i, block in enumerate(adapter.blocks(inner)):
        processor = adapter.attention(block).processor
        if type(processor) not in (*adapter.processors, GroupedSelfAttention):
            raise InputError(
                f"The self-attention of block {i} has the processor {type(processor).__name__}, which memory would "
                f"replace; set it back to {adapter.processors[0].__name__}() first."
            )
    return inner


def _experts(model: Any) -> Sequence[object]:
    if isinstance(model, WanBackbone):
        return model.transformers
    if isinstance(model, DiffusionPipeline | ModularPipeline):
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
