"""How recurrent memory is attached: each of its layers adds to the output of one block, by a forward hook.

The state of a forward pass travels in its `Carrier`, which the block is called with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from memkit.backbones.adapters.choice import adapter_of
from memkit.backbones.attached import Attached
from memkit.backbones.base import RECURRENT, TEACHER_FORCING, Carrier
from memkit.backbones.cache_context import listen
from memkit.backbones.protocol import Grid, Model
from memkit.backbones.running import Running
from memkit.backbones.samples import several_videos
from memkit.errors import InputError, MemkitError
from memkit.injectors.recurrent.chunk import StateChunk, StatePass
from memkit.injectors.recurrent.state import RecurrentState


class AttachedStates(Attached):
    """Recurrent memory attached to transformers until ``detach()`` or the end of the ``with`` statement.

    ``layers`` has a module per block with memory: of the block's output [B,F,S,D] and the state [B,…] before it, or
    None, it gives what is added to the output, and the state after it; ``fits(state, tokens, width)`` says whether a
    state is one of such frames. ``state`` is kept when it is detached.
    """

    kind = RECURRENT
    needs_frames = True
    needs_every_block = True  # a block that is skipped does not advance its state

    def __init__(
        self, owner: object, models: Sequence[Model], layers: Mapping[int, nn.Module], state: RecurrentState
    ) -> None:
        if state.attached:
            raise InputError("This state is attached already; detach it first, or create another one.")
        wanted = {(number, layer) for number in range(len(models)) for layer in layers}
        if any(held not in (set(), wanted) for held in (set(state.branch(name)[1].tensors) for name in state.branches)):
            raise InputError(
                f"The state is not of {len(models)} transformers with memory in blocks {list(layers)}; attach the "
                "memory that wrote it to the models that it was written with, or reset() it."
            )
        self.state, self._layers = state, layers
        self.running: Running[StateChunk] = Running(self.kind, self.begin_chunk)
        self._numbers: dict[int, int] = {}
        self._undo: list[Callable[[], None]] = []
        super().__init__(owner, models)
        state.attached = True

    def chunk(self, branch: str | None = None, write: bool = False, through_time: bool = False) -> StateChunk:
        """A context manager in which the attached transformers run on the frames that follow those of the state.

        Args:
            branch: name of the branch to read and write; by default the only one, or in each forward pass that of the
                transformer's ``cache_context``, as the stock pipelines name it ("cond" and "uncond").
            write: at the end, unless an exception was raised, the state becomes that after the last forward pass of
                each transformer, which should be one with the clean latents of the chunk.
            through_time: keep the autograd graph of the state that is written, so that the loss of a later chunk trains
                what this one wrote. It grows until ``state.reset()``.

        Raises:
            InputError: there is no such branch.
            MemkitError: the memory is detached.
        """
        if not self.models:
            raise MemkitError("The memory is not attached any more; open chunks inside `with memory.attach(...)`.")
        shape = len(self.models), len(self._layers)
        return StateChunk(self.running, self.state, shape, branch, write, through_time)

    def install(self, model: Model) -> None:
        """Hooks on the blocks, and an ear at the model's ``cache_context``."""
        self._numbers[id(model)] = len(self._numbers)
        self._undo.append(listen(model, self.state.in_context))
        blocks = adapter_of(model).blocks(model)
        for number, layer in self._layers.items():
            after = partial(self._after, adapter_of(model), number, layer)
            self.keep(blocks[number].register_forward_hook(after, with_kwargs=True))

    def detach(self) -> None:
        """Detach from all transformers; other attachments, and the state, stay."""
        while self._undo:
            self._undo.pop()()
        if self.models:
            self.state.attached = False
        super().detach()

    def rotary(self, model: Model, grid: Grid | None, carrier: Carrier) -> Carrier:
        """Add the state before this forward pass."""
        assert grid is not None
        return carrier.with_state(self.key, self.running.current().begin(self._numbers[id(model)], grid))

    def _after(
        self, adapter: Any, number: int, layer: Any, block: nn.Module, args: tuple, kwargs: dict, out: Any
    ) -> Any:
        named = {**dict(zip(adapter.block_arguments, args, strict=False)), **kwargs}
        carrier = adapter.carrier_in(named[adapter.rotary_argument])
        each: StatePass = carrier.state(self.key)
        hidden, *text = out if isinstance(out, tuple) else (out,)
        grid, before = each.grid, each.before.get(number)
        if hidden.shape[1] != grid.frames * grid.tokens_per_frame or TEACHER_FORCING in carrier.states:
            raise InputError(
                f"{self.kind[0].upper()}{self.kind[1:]} needs the frames of one chunk, in their order, and no others "
                "in the sequence; detach teacher forcing, frame context or query layers first."
            )
        if before is not None and before.shape[0] != hidden.shape[0]:
            raise InputError(
                f"The state is of a batch of {before.shape[0]}, the model runs a batch of {hidden.shape[0]}; keep the "
                "batch within a video, or reset() the state."
                + several_videos(before.shape[0], hidden.shape[0], "write the state with the same")
            )
        if before is not None and not layer.fits(before, grid.tokens_per_frame, hidden.shape[2]):
            raise InputError(
                f"The state of {list(before.shape[1:])} is not that of frames of {grid.tokens_per_frame} tokens of "
                f"{hidden.shape[2]}: it is of another model; reset() it."
            )
        x = hidden.unflatten(1, (grid.frames, grid.tokens_per_frame))
        y, each.after[number] = layer(x, None if before is None else before.to(hidden.device))
        hidden = hidden + y.flatten(1, 2).type_as(hidden)
        return (hidden, *text) if isinstance(out, tuple) else hidden
