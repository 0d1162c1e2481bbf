"""`Attached`: the one way to put something on stock Wan transformers, and to take it off again.

    with thing.attach(model) as attached, attached.chunk(...):
        model(...)

A kind of attachment is a subclass. It may give each layer a part (`Injection`, `Positioning` or `Grouping`), change
what the rotary embedding hands to the blocks, and register hooks of its own. What a forward needs travels with it in a
`Carrier`; which chunk is running is held by `Running`, in one place per attachment.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from memkit.backbones.base import Carrier, Grouping, Part, Positioning
from memkit.backbones.wan_attention import GroupedSelfAttention, carry_modulation, refuse_copy
from memkit.errors import InputError, MemkitError

_REGISTER = "_memkit_attached"
"""The attribute of a model that holds its `_Register` while something is attached."""

Own = TypeVar("Own", bound="Attached")
Chunk = TypeVar("Chunk")


class Attached:
    """One thing on some transformers, until ``detach`` or the end of the ``with``.

    Attachments come off in any order; when the last one is off, the model is what it was, bit for bit, with the
    processors that it had. If the processors were replaced in the meantime, those stay.

    Raises:
        InputError: a transformer has this very thing attached, or another one of its kind.
    """

    kind: ClassVar[str]
    """What is attached, as errors name it: "a KV cache"."""
    several: ClassVar[bool] = False
    """Whether a model may have several of this kind, each a different one."""
    places_frames: ClassVar[bool] = False
    """Whether it decides which frames the model runs on and where they are in time; one attachment per model may."""

    __deepcopy__ = __reduce_ex__ = refuse_copy

    def __init__(self, owner: object, models: Sequence[WanTransformer3DModel]) -> None:
        self.owner = owner
        self.models: tuple[WanTransformer3DModel, ...] = ()
        self._handles: list[RemovableHandle] = []
        for model in models:
            self._refuse_second(model)
        try:
            for model in models:
                register = _Register.of(model)
                self.models = (*self.models, model)
                register.add(self)
                self.install(model)
        except BaseException:
            self.detach()
            raise

    @property
    def key(self) -> str:
        """The name of its state in a `Carrier`."""
        return f"{self.kind} {id(self)}" if self.several else self.kind

    # -- what a kind adds ----------------------------------------------------------------------------------------------

    def part(self, model: WanTransformer3DModel, layer: int) -> Part | None:
        """What it does in the self-attention of a layer; made once."""
        return None

    def rotary(self, model: WanTransformer3DModel, latents: Tensor, carrier: Carrier) -> Carrier:
        """Called once per forward, with its latents [B,C,F,H,W]: the carrier with other tables, or with a state."""
        return carrier

    def install(self, model: WanTransformer3DModel) -> None:
        """Register further hooks, each passed to `keep`."""

    def keep(self, *handles: RemovableHandle) -> None:
        """Remove these hooks when this is detached."""
        self._handles += handles

    # -- taking it off -------------------------------------------------------------------------------------------------

    def detach(self) -> None:
        """Take it away; what else is attached to the transformers stays."""
        while self._handles:
            self._handles.pop().remove()
        models, self.models = self.models, ()
        for model in models:
            _Register.of(model).remove(self)

    def __enter__(self: Own) -> Own:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def _refuse_second(self, model: WanTransformer3DModel) -> None:
        for other in attached_to(model):
            if other.owner is self.owner:
                raise InputError(
                    f"The transformer has this very object attached already ({self.kind}); attach it once."
                )
            if type(other) is type(self) and not self.several:
                raise InputError(f"The transformer has {self.kind} attached already; detach that first.")
            if other.places_frames and self.places_frames:
                raise InputError(
                    f"The transformer has {other.kind} attached, which gives the frames their positions in time, as "
                    f"{self.kind} does; detach one before you attach the other."
                )


def attached_to(model: nn.Module) -> tuple[Attached, ...]:
    """What is attached to a transformer, in the order in which it came."""
    register = vars(model).get(_REGISTER)
    return () if register is None else tuple(register.attached)


class Running(Generic[Chunk]):
    """Which chunk an attachment is running; there is one at most."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._chunk: Chunk | None = None

    def enter(self, chunk: Chunk) -> None:
        """Begin a chunk. Raises `MemkitError` inside another one."""
        if self._chunk is not None:
            raise MemkitError(f"A chunk of {self._kind} is open already; chunks do not nest.")
        self._chunk = chunk

    def leave(self) -> None:
        """The end of the chunk."""
        self._chunk = None

    def current(self) -> Chunk:
        """The open chunk. Raises `MemkitError` where there is none."""
        if self._chunk is None:
            raise MemkitError(
                f"A transformer with {self._kind} ran outside a chunk; call it in `with attached.chunk(...):`, or "
                f"detach {self._kind}."
            )
        return self._chunk

    def is_running(self, chunk: object) -> bool:
        """Whether this chunk is the open one."""
        return self._chunk is chunk


class _Register:
    """What is attached to one model, and the hooks and processors that all of it shares."""

    __deepcopy__ = __reduce_ex__ = refuse_copy

    def __init__(self, model: Any) -> None:
        self.model = model
        self.attached: list[Attached] = []
        self._parts: dict[Attached, list[Part | None]] = {}
        self._inner = [block.attn1.processor for block in model.blocks]
        self._thread, self._depth = 0, 0
        self._handles = [
            model.register_forward_pre_hook(self._begin, prepend=True),
            model.register_forward_hook(self._end, always_call=True),
            model.rope.register_forward_hook(self._carry),
            *(block.register_forward_pre_hook(carry_modulation) for block in model.blocks),
        ]

    @staticmethod
    def of(model: nn.Module) -> _Register:
        """That of the model, made if there is none yet."""
        if _REGISTER not in vars(model):
            setattr(model, _REGISTER, _Register(model))
        return vars(model)[_REGISTER]

    def add(self, attachment: Attached) -> None:
        parts = [attachment.part(self.model, i) for i in range(len(self.model.blocks))]
        _refuse_two(parts[0], [row[0] for row in self._parts.values()])
        self.attached.append(attachment)
        self._parts[attachment] = parts
        self._show()

    def remove(self, attachment: Attached) -> None:
        if attachment in self.attached:
            self.attached.remove(attachment)
            del self._parts[attachment]
        if self.attached:
            self._show()
            return
        for handle in self._handles:
            handle.remove()
        for block, inner in zip(self.model.blocks, self._inner, strict=True):
            if isinstance(block.attn1.processor, GroupedSelfAttention):
                block.attn1.processor = inner
        delattr(self.model, _REGISTER)

    def _show(self) -> None:
        """The parts of all attachments, in their processors; a processor that somebody else has set stays."""
        for i, (block, inner) in enumerate(zip(self.model.blocks, self._inner, strict=True)):
            if block.attn1.processor is inner or isinstance(block.attn1.processor, GroupedSelfAttention):
                parts = (self._parts[each][i] for each in self.attached)
                block.attn1.processor = GroupedSelfAttention(inner, block, tuple(p for p in parts if p is not None))

    def _carry(self, rope: Any, args: tuple[Tensor], tables: tuple[Tensor, Tensor]) -> Carrier:
        carrier = Carrier(*tables, states={}, grad=torch.is_grad_enabled())
        for attachment in self.attached:
            carrier = attachment.rotary(self.model, args[0], carrier)
        return carrier

    def _begin(self, _model: nn.Module, _args: tuple[Any, ...]) -> None:
        if torch.compiler.is_compiling():
            return
        thread = threading.get_ident()
        if self._depth and thread != self._thread:
            raise MemkitError(
                "Two threads call one transformer while memory is attached to it, and would mix up their chunks; "
                "give each thread a transformer of its own, or call it from one thread at a time."
            )
        self._thread, self._depth = thread, self._depth + 1

    def _end(self, _model: nn.Module, _args: tuple[Any, ...], _output: Any) -> None:
        if not torch.compiler.is_compiling() and self._depth and threading.get_ident() == self._thread:
            self._depth -= 1


def _refuse_two(part: Part | None, others: Sequence[Part | None]) -> None:
    if isinstance(part, Positioning) and any(isinstance(other, Positioning) for other in others):
        raise InputError("The transformer's tokens have camera positions attached already; detach those first.")
    if isinstance(part, Grouping) and any(isinstance(other, Grouping) for other in others):
        raise InputError("The transformer's tokens are grouped already, by teacher forcing; detach that first.")
