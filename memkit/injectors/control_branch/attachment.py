"""How a `ControlBranch` is attached: a forward hook on each block that gets a hint.

The control tokens go from hook to hook in the `Carrier` of the forward pass. VACE computes all hints before the blocks;
here each is computed after its block, from the same tensors, where the weights of the model are if it is offloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from memkit.backbones.adapters.choice import adapter_of
from memkit.backbones.attached import Attached
from memkit.backbones.base import CONTROL_BRANCH, FRAME_CONTEXT, QUERY_LAYERS, TEACHER_FORCING, Carrier
from memkit.backbones.protocol import BackboneAdapter, Grid, Model
from memkit.backbones.running import Running
from memkit.backbones.samples import several_videos
from memkit.checks import check_finite, check_scale
from memkit.errors import InputError, MemkitError


class _Control(NamedTuple):
    """The arguments of a chunk and, in a forward pass of one transformer, the control tokens after each block."""

    latents: Tensor
    scale: float
    tokens: dict[int, Tensor]


class AttachedControl(Attached):
    """A control branch attached to transformers until ``detach()`` or the end of the ``with`` statement.

    While attached, a transformer runs only inside `chunk`.
    """

    kind = CONTROL_BRANCH
    needs_frames = True
    needs_every_block = True  # a block that is skipped does not pass the control tokens on

    def __init__(
        self, owner: object, models: Sequence[Model], embed: nn.Conv3d, layers: Mapping[int, nn.Module]
    ) -> None:
        self._embed, self._layers = embed, layers
        self.running: Running[_Control] = Running(self.kind, self.begin_chunk)
        super().__init__(owner, models)

    def chunk(self, control: Tensor, scale: float = 1.0) -> AbstractContextManager[None]:
        """A context manager in which the transformers are guided by control latents [B or 1,C,F,H,W], whose frames and
        size are those of the model's latents. ``scale`` is a factor of the hints.

        Raises `InputError` for control of other channels or that is not finite.
        """
        check_finite("The control", control, "[B, C, F, H, W]")
        check_scale("scale", scale)
        if control.shape[1] != self._embed.in_channels:
            raise InputError(f"The control is {list(control.shape)}; give {self._embed.in_channels} channels.")
        return self._open(_Control(control, scale, {}))

    @contextmanager
    def _open(self, control: _Control) -> Iterator[None]:
        self.running.enter(control)
        try:
            yield
        finally:
            self.running.leave()

    def install(self, model: Model) -> None:
        """Hooks on the blocks."""
        adapter, before = adapter_of(model), (None, *self._layers)
        for (number, layer), last in zip(self._layers.items(), before, strict=False):
            after: Callable[..., Any] = partial(self._after, adapter, last, number, layer)
            self.keep(adapter.blocks(model)[number].register_forward_hook(after, with_kwargs=True))

    def rotary(self, model: Model, grid: Grid | None, carrier: Carrier) -> Carrier:
        """Begin a forward pass."""
        assert grid is not None
        control = self.running.current()
        sides = zip(control.latents.shape[2:], self._embed.stride, strict=True)
        if (found := tuple(side // patch for side, patch in sides)) != grid[:3]:
            raise InputError(
                f"The control {list(control.latents.shape)} has {found} frames, rows and columns of patches, the "
                f"model's latents {grid[:3]}; give control of their size."
            )
        return carrier.with_state(self.key, control._replace(tokens={}))

    def _after(self, adapter: BackboneAdapter, last: int | None, number: int, layer: nn.Module, *call: Any) -> Tensor:
        _block, args, kwargs, out = call
        named = {**dict(zip(adapter.block_arguments, args, strict=False)), **kwargs}
        hidden, text, temb, carrier = (named[name] for name in adapter.block_arguments)
        control: _Control = carrier.state(self.key)
        if carrier.grad and not torch.is_grad_enabled():
            raise MemkitError(
                "Reentrant checkpointing cuts control tokens off from the graph; call "
                "transformer.enable_gradient_checkpointing() without a function of your own, or with "
                "use_reentrant=False."
            )
        tokens = self._embedded(control.latents, hidden, carrier) if last is None else control.tokens[last]
        hidden, text = (x.to(tokens.dtype) for x in (hidden, text))
        hint, control.tokens[number] = layer(tokens, hidden, text, temb, adapter.own_rotary(carrier))
        return out + (control.scale * hint).type_as(out)

    def _embedded(self, latents: Tensor, hidden: Tensor, carrier: Carrier) -> Tensor:
        """The control as tokens [B,S,D]; those of context frames, which come before the chunk's, are 0."""
        tokens = self._embed(latents.to(self._embed.weight)).flatten(2).mT
        context = sum(getattr(carrier.states.get(FRAME_CONTEXT), "counts", ()))
        fits = not {TEACHER_FORCING, QUERY_LAYERS} & carrier.states.keys()
        if not fits or len(tokens) not in (1, len(hidden)) or context + tokens.shape[1] != hidden.shape[1]:
            several = several_videos(len(tokens), len(hidden), "give control.repeat_interleave({n}, dim=0)")
            raise InputError(
                f"The control is of {len(tokens)} samples of {tokens.shape[1]} tokens, the model runs {len(hidden)} of "
                f"{hidden.shape[1] - context}; give one for all samples or one per sample, and detach query layers and "
                f"teacher forcing.{several}"
            )
        return nn.functional.pad(tokens.expand(len(hidden), -1, -1), (0, 0, context, 0))
