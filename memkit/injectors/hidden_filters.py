"""`filter_hidden_states`: filter a model's hidden states while it runs, to study what their frequencies carry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memkit.backbones.wan import WanBackbone
from memkit.checks import LAYERS, check_number, check_whole
from memkit.errors import InputError

Place = int | Literal["embedding"]
"""Where to filter: the output of the block with this index, or of the patch embedding."""

MOST_STRENGTH = 1000.0
"""The largest strength of a filter, in either direction: 1 is the filter itself."""


@contextmanager
def filter_hidden_states(
    backbone: WanBackbone, keep: Callable[[Tensor], Tensor], place: Place, strength: float = 1.0
) -> Iterator[list[Tensor]]:
    """Inside, every expert's hidden state x at ``place`` is x + strength·(keep(x) − x); afterwards all is as before.

    ``keep`` maps [B, D, T, H, W] over the grid of patches to the same shape. Yields a list to which each call of an
    expert adds the mean square [B] of the change, as a share of the state's.

    Raises `InputError` for a block that an expert lacks, and for a strength that is not finite.
    """
    check_number("strength", strength, -MOST_STRENGTH, MOST_STRENGTH)
    if place != "embedding":
        check_whole("place", place, -LAYERS[1], LAYERS[1])
    changes: list[Tensor] = []
    with ExitStack() as stack:
        for model in backbone.transformers:
            if place != "embedding" and not 0 <= place < len(model.blocks):
                raise InputError(f"There is no block {place} to filter after; the last is {len(model.blocks) - 1}.")
            hooks = _Hooks(keep, strength, changes)
            if place == "embedding":
                stack.callback(model.patch_embedding.register_forward_hook(hooks.on_grid).remove)
            else:
                stack.callback(model.patch_embedding.register_forward_hook(hooks.see_grid).remove)
                stack.callback(model.blocks[place].register_forward_hook(hooks.on_tokens).remove)
        yield changes


class _Hooks:
    """Hooks of one expert. Only the embeddings know the grid, which the tokens of a block have lost."""

    def __init__(self, keep: Callable[[Tensor], Tensor], strength: float, changes: list[Tensor]) -> None:
        self.keep, self.strength, self.changes = keep, strength, changes
        self.grid = torch.Size()

    def see_grid(self, module: nn.Module, args: Any, out: Tensor) -> None:
        self.grid = out.shape[2:]

    def on_tokens(self, module: nn.Module, args: Any, out: Tensor) -> Tensor:
        on_grid = out.mT.unflatten(2, self.grid)
        return self.on_grid(module, args, on_grid).flatten(2).mT.contiguous()

    def on_grid(self, module: nn.Module, args: Any, out: Tensor) -> Tensor:
        new = torch.lerp(out, self.keep(out), self.strength)  # exact at 0 and at 1
        change, own = (x.detach().float().square().mean((1, 2, 3, 4)) for x in (new - out, out))
        self.changes.append(change / own)
        return new


class WithMean(nn.Module):
    """What a filter keeps plus the mean over the clip, which a high-pass filter removes."""

    def __init__(self, keep: nn.Module) -> None:
        super().__init__()
        self.keep = keep

    def forward(self, x: Float[Tensor, "*n t h w"]) -> Float[Tensor, "*n t h w"]:
        return self.keep(x) + x.mean((-3, -2, -1), keepdim=True)
