"""Features that change how a model runs: attention backends, checkpointing, autocast."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.compat.declared import Feature, Refused


def backend(name: str) -> Callable[[Any, Path], Any]:
    """diffusers' attention backend of all layers of this model."""

    def apply(model: Any, _: Path) -> Any:
        model.set_attention_backend(name)
        return model

    return apply


def checkpointing(reentrant: bool) -> Callable[[Any, Path], Any]:
    def apply(model: Any, _: Path) -> Any:
        checkpoint = partial(torch.utils.checkpoint.checkpoint, use_reentrant=True)
        model.enable_gradient_checkpointing(*([checkpoint] if reentrant else []))
        return model

    return apply


def gradients(model: Any, out: Tensor) -> Tensor:
    """Of all parameters, of the mean square of the output, to be compared in place of the output."""
    model.zero_grad()
    out.square().mean().backward()
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in model.parameters()])


REENTRANT = Refused(
    "use_reentrant=False",
    "Reentrant checkpointing first runs a block without gradients, which gives query layers wrong gradients: call "
    "`enable_gradient_checkpointing()` without an argument, or pass a function with `use_reentrant=False`.",
)

EXECUTION = {
    "backend_native": Feature("attention backend `native`", backend("native")),
    "backend_math": Feature("attention backend `_native_math`", backend("_native_math"), atol=1e-5),
    "backend_flash": Feature("attention backend `_native_flash`", backend("_native_flash"), atol=1e-5),
    "checkpointing": Feature(
        "gradient checkpointing", checkpointing(reentrant=False), atol=1e-6, gradients=True, observe=gradients
    ),
    "reentrant": Feature(
        "gradient checkpointing, reentrant",
        checkpointing(reentrant=True),
        atol=1e-6,
        gradients=True,
        observe=gradients,
        refused={"query_layers": REENTRANT},
    ),
    "autocast": Feature(
        "autocast to half precision",
        lambda model, _: model,
        atol=0.006,
        around=lambda: torch.autocast("cpu", torch.float16),
    ),
}
