"""`BlockLayers`: small layers of your own around the self-attention of some blocks.

The common form of adapters that read memory inside a block: temporal convolutions beside the attention (DeT, arXiv
2503.17350), cross-attention to reference tokens after it (GSFixer, arXiv 2508.09667), scale and shift before it (ARLON,
arXiv 2410.20502). Layers should begin with a last weight of zero, so that the untrained model is the stock one.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from memkit.backbones.adapters.choice import adapter_of
from memkit.backbones.attached import Attached
from memkit.backbones.base import BLOCK_LAYERS, Carrier
from memkit.backbones.protocol import Grid, Model
from memkit.backbones.refusals import refuse_other_tokens
from memkit.backbones.unwrap import Attachable, transformers_of
from memkit.errors import InputError

Tokens = Float[Tensor, "batch frames tokens dim"]


class BlockLayer(nn.Module):
    """The layer of one block; override one of the two methods or both. ``context`` is that of `BlockLayers`."""

    def enter(self, hidden: Tokens, context: Any) -> Tokens:
        """What the self-attention takes in place of its input ``hidden``, the normed and modulated tokens."""
        return hidden

    def leave(self, hidden: Tokens, out: Tokens, context: Any) -> Tokens:
        """What replaces the output of the self-attention, before the block's gate; ``hidden`` is its input."""
        return out


class BlockLayers(nn.Module):
    """Layers by the number of their block; a module, whose parameters are those of the layers alone.

        layers = BlockLayers({0: DeTLayer(192), 1: DeTLayer(192)})
        with layers.attach(transformer):
            velocity = transformer(latents, t, text).sample

    Args:
        layers: one per block that has one.
        context: what each layer gets in every call, such as reference tokens, in the dtype of the layers, which may
            differ from that of the model.
    """

    def __init__(self, layers: Mapping[int, BlockLayer], context: Any = None) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({str(number): layer for number, layer in layers.items()})
        self.context = context

    def attach(self, *models: Attachable) -> Attached:
        """Attach to transformers, or to all experts of a pipeline or backbone, until ``detach()`` or the end of the
        ``with`` statement. Several may be attached at the same time.

        Raises `InputError` where there is no transformer, one is repeated, or one has no block of a number.
        """
        transformers = transformers_of(models, BLOCK_LAYERS)
        for model in transformers:
            count = len(adapter_of(model).blocks(model))
            if wrong := [int(number) for number in self.layers if not 0 <= int(number) < count]:
                raise InputError(f"There are layers for blocks {wrong}, the transformer has {count}; leave them out.")
        return _AttachedLayers(self, transformers)


class _AttachedLayers(Attached):
    kind = BLOCK_LAYERS
    several = True
    needs_frames = True
    hooks_inside = True
    owner: BlockLayers

    def install(self, model: Model) -> None:
        """Hooks on the self-attention of the blocks."""
        adapter = adapter_of(model)
        blocks = adapter.blocks(model)
        for number, layer in self.owner.layers.items():
            attention = adapter.attention(blocks[int(number)])
            before, after = partial(self._before, layer), partial(self._after, layer)
            self.keep(attention.register_forward_pre_hook(before, with_kwargs=True))
            self.keep(attention.register_forward_hook(after, with_kwargs=True))

    def rotary(self, model: Model, grid: Grid | None, carrier: Carrier) -> Carrier:
        assert grid is not None
        return carrier.with_state(self.key, grid)

    def _before(self, layer: Any, attn: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        x = args[0] if args else kwargs["hidden_states"]
        hidden = layer.enter(self._by_frame(layer, args, kwargs, x), self.owner.context).flatten(1, 2).type_as(x)
        return ((hidden, *args[1:]), kwargs) if args else ((), {**kwargs, "hidden_states": hidden})

    def _after(self, layer: Any, attn: nn.Module, args: tuple, kwargs: dict, out: Tensor) -> Tensor:
        x = args[0] if args else kwargs["hidden_states"]
        hidden, y = (self._by_frame(layer, args, kwargs, each) for each in (x, out))
        return layer.leave(hidden, y, self.owner.context).flatten(1, 2).type_as(out)

    def _by_frame(self, layer: nn.Module, args: tuple, kwargs: dict, x: Tensor) -> Tensor:
        """[B,F,S,D], in the dtype of the layer."""
        carrier = next(each for each in (*args, *kwargs.values()) if isinstance(each, Carrier))
        grid: Grid = carrier.state(self.key)
        refuse_other_tokens(self.kind, grid.frames, grid.tokens_per_frame, x.shape[1], carrier)
        dtype = next((parameter.dtype for parameter in layer.parameters()), x.dtype)
        return x.unflatten(1, (grid.frames, grid.tokens_per_frame)).to(dtype)
