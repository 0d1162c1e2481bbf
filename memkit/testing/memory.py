"""Properties of memory that is masked, over any way to inject it: shared by the checks of injectors and backbones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from memkit.memory import Memory
from memkit.testing.measures import apart, unequal
from memkit.testing.models import width_of
from memkit.testing.report import Properties
from memkit.testing.strategies import memories

ROUNDING = 1e-5
"""Largest difference by rounding, in shares of the largest value."""


def check_masked_memory(
    properties: Properties,
    with_memory: Callable[[Memory], Any],
    model: Any,
    run: Callable[[Any, Any], Tensor],
    exact: bool = True,
) -> None:
    """Masked memory changes no bit, whatever it contains, and memory that is not masked counts.

    ``run(model, attached)`` is a forward of two samples; ``attached`` is None without memory. Without ``exact``, a
    sample without memory beside one with memory may differ from the model's own output by rounding.
    """
    base, drawn = run(model, None), memories(width_of(model))

    def output(memory: Memory) -> Tensor:
        with with_memory(memory).attach(model) as attached:
            return run(model, attached)

    def masked(memory: Memory, empty: bool) -> int:
        if empty:
            return unequal(output(Memory(memory.tokens[:, :0])), base)
        nothing = torch.zeros(memory.tokens.shape[:2], dtype=torch.bool)
        return unequal(output(Memory(torch.full_like(memory.tokens, torch.nan), nothing)), base)

    def read(memory: Memory) -> int:
        mask = torch.arange(memory.tokens.shape[1]) % 2 == torch.arange(2)[:, None]
        outs = [output(Memory(memory.tokens.masked_fill(~mask[..., None], value), mask)) for value in (0.0, torch.nan)]
        return unequal(*outs)

    def without_any(memory: Memory) -> int:
        mask = torch.ones(memory.tokens.shape[:2], dtype=torch.bool)
        mask[1] = False
        out = output(Memory(memory.tokens, mask))[1]
        return int(unequal(out, base[1])) if exact else int(apart(out, base[1]) > ROUNDING)

    hide = "Leave masked tokens out of the attention: −inf as log-weight in the table, and zeros in their place."
    properties.none("fully masked memory changes no bit", masked, hide, memory=drawn, empty=st.booleans())
    properties.none("masked tokens are never read", read, hide, memory=drawn)
    properties.none(
        f"a sample without memory keeps its output{' to the bit' if exact else ''}",
        without_any,
        "Compute the attention of such a sample without the memory group, as the model does alone.",
        memory=drawn,
    )
    properties.at_least(
        "memory changes the output",
        1e-5,
        lambda memory: apart(output(Memory(memory.tokens)), base),
        "The tokens of the memory are not used.",
        memory=drawn,
    )
