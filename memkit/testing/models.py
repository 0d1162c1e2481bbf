"""Models under test: one forward of random inputs, and what an attachment may not leave behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from memkit.backbones.adapters.choice import adapter_of
from memkit.testing.measures import normal

HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks", "_state_dict_hooks")


def call(model: Any, seed: int = 0) -> Tensor:
    """A forward of two samples of three latent frames, each at its own timestep, of a backbone or a transformer."""
    transformer = getattr(model, "transformer", model)
    config = transformer.config
    latents, text = normal(seed, 2, config.in_channels, 3, 4, 4), normal(seed + 1, 2, 6, config.text_dim)
    timestep = torch.tensor([700.0, 150.0])
    if hasattr(model, "velocity"):
        return model.velocity(latents, timestep, text)
    return transformer(latents, timestep, text, return_dict=False)[0]


@contextmanager
def evaluating(part: object) -> Iterator[None]:
    """A module is in eval mode within, and in its own mode again afterwards; anything else is left alone."""
    training = part.training if isinstance(part, nn.Module) else False
    try:
        if isinstance(part, nn.Module):
            part.eval()
        yield
    finally:
        if isinstance(part, nn.Module):
            part.train(training)


def width_of(model: Any) -> int:
    """Width of the hidden states of a transformer, and of its memory tokens."""
    return adapter_of(model).sizes(model).width


def state_of(model: nn.Module) -> dict[str, tuple[Any, ...]]:
    """Of each module: the names of its attributes, its hooks, and its attention processor.

    Not counted is the registry that diffusers creates when a model first enters a ``cache_context``.
    """
    return {
        name: (
            sorted(vars(module).keys() - {"_diffusers_hook"}),
            [list(getattr(module, each)) for each in HOOKS],
            getattr(module, "processor", None),
        )
        for name, module in model.named_modules()
    }


def differences(before: dict[str, tuple[Any, ...]], after: dict[str, tuple[Any, ...]]) -> int:
    """In how many modules two states differ."""
    return sum(before.get(name) != after.get(name) for name in before.keys() | after.keys())
