"""`Attached`: the base of everything that is attached to stock transformers, and detached again.

    with injector.attach(model) as attached, attached.chunk(...):
        model(...)

Each kind of attachment is a subclass. It may provide a part of each layer's self-attention (`Injection`, `Positioning`
or `Grouping`), change what the rotary embedding passes to the blocks, and register further hooks. The state of a
forward pass travels with it in a `Carrier`; each attachment has one `Running`, which holds the chunk that is open.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from memkit.backbones.adapters.choice import adapter_of
from memkit.backbones.attention_processor import GroupedSelfAttention, modulation_hook, refuse_copy
from memkit.backbones.base import Carrier, Grouping, Part, Positioning, Routing
from memkit.backbones.protocol import Grid, Model
from memkit.backbones.refusals import check_runnable, reset_caches
from memkit.backbones.unwrap import check_supported
from memkit.errors import InputError, MemkitError

_REGISTER = "_memkit_attached"
"""Name of the attribute that holds a model's `_Register` while something is attached to it."""

_NUMBERS = itertools.count()

AttachedType = TypeVar("AttachedType", bound="Attached")


class Attached:
    """One attachment to one or more transformers, until ``detach()`` or the end of the ``with`` statement.

    Attachments may be detached in any order. After the last one, the model has its original processors again and gives
    bit-identical outputs. If the processors were replaced in the meantime, the replacements stay.

    Raises:
        InputError: a transformer already has this object or another one of the same kind attached, or another
            attachment that sets the positions of the frames.
    """

    kind: ClassVar[str]
    """What is attached, as it is called in error messages: "a KV cache"."""
    several: ClassVar[bool] = False
    """Whether several different objects of this kind may be attached to a model at the same time."""
    needs_every_block: ClassVar[bool] = False
    """Whether every block must run in every forward pass, so that diffusers' caches, which skip some, are refused."""
    differs_by_pass: ClassVar[bool] = False
    """Whether it acts in some passes of guidance only, so that caches that do not tell passes apart are refused."""
    places_frames: ClassVar[bool] = False
    """Whether it sets the frames that the model runs on and their positions in time. A model may have only one such
    attachment."""
    needs_frames: ClassVar[bool] = False
    """Whether it needs to know the frames of a forward pass, without setting them."""
    hooks_inside: ClassVar[bool] = False
    """Whether it has hooks on modules inside of the blocks, which torch.compile must compile anew for."""

    __deepcopy__ = __reduce_ex__ = refuse_copy

    def __init__(self, owner: object, models: Sequence[Model]) -> None:
        self.owner, self.number = owner, next(_NUMBERS)
        self.models: tuple[Model, ...] = ()
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

    def __repr__(self) -> str:
        names = ", ".join(type(model).__name__ for model in self.models)
        return f"<{self.kind}, {f'attached to {names}' if names else 'detached'}: {self.owner!r}>"

    @property
    def key(self) -> str:
        """Key of this attachment's state in a `Carrier`."""
        return f"{self.kind} {id(self)}" if self.several else self.kind

    # -- for subclasses to override ------------------------------------------------------------------------------------

    def part(self, model: Model, layer: int) -> Part | None:
        """The part to run in the self-attention of a layer, or None; called once per layer."""
        return None

    def rotary(self, model: Model, grid: Grid | None, carrier: Carrier) -> Carrier:
        """Return the carrier with changed rotary tables or added state; called once per forward.

        ``grid`` is that of the model's tokens. It may be None, where a call of the model does not tell it, but not for
        attachments that need or place the frames.
        """
        return carrier

    def runs_in_parallel(self) -> bool:
        """Whether it acts rightly where several processes share the tokens of a video."""
        return False

    def install(self, model: Model) -> None:
        """Register further hooks on the model; pass their handles to `keep`."""

    def keep(self, *handles: RemovableHandle) -> None:
        """Keep the handles of hooks, which `detach` removes."""
        self._handles += handles

    def begin_chunk(self) -> None:
        """Called when a chunk begins: forget what diffusers' caches kept of other chunks."""
        for model in self.models:
            reset_caches(model)

    # -- detaching -----------------------------------------------------------------------------------------------------

    def detach(self) -> None:
        """Detach from all transformers; other attachments stay."""
        while self._handles:
            self._handles.pop().remove()
        models, self.models = self.models, ()
        for model in models:
            _Register.of(model).remove(self)

    def __enter__(self: AttachedType) -> AttachedType:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def _refuse_second(self, model: Model) -> None:
        for other in attached_to(model):
            if other.owner is self.owner:
                raise InputError(
                    f"This object ({self.kind}) is attached already to the transformer; attach it only once, or "
                    "detach it first."
                )
            if type(other) is type(self) and not self.several:
                raise InputError(f"The transformer has {self.kind} attached already; detach that first.")
            if other.places_frames and self.places_frames:
                raise InputError(
                    f"The transformer has {other.kind} attached, which sets the frames' positions in time, as does "
                    f"{self.kind}; detach the one before attaching the other."
                )


def attached_to(model: nn.Module) -> tuple[Attached, ...]:
    """The attachments of a transformer, in the order in which they were attached."""
    register = vars(model).get(_REGISTER)
    return () if register is None else tuple(register.attached)


class _Register:
    """The attachments of one model, and the hooks and processors that they share."""

    __deepcopy__ = __reduce_ex__ = refuse_copy

    def __init__(self, model: Any) -> None:
        self.model = model
        self.adapter = adapter = adapter_of(model)
        self.attached: list[Attached] = []
        self.blocks = adapter.blocks(model)
        self._parts: dict[Attached, list[Part | None]] = {}
        self._inner = [adapter.attention(block).processor for block in self.blocks]
        self._thread, self._depth = 0, 0
        carry = modulation_hook(adapter)
        self._handles = [
            *adapter.watch(model, self._carry),
            model.register_forward_pre_hook(self._begin, prepend=True),
            model.register_forward_hook(self._end, always_call=True),
            *(block.register_forward_pre_hook(carry, with_kwargs=True) for block in self.blocks),
        ]

    @staticmethod
    def of(model: nn.Module) -> _Register:
        """The register of the model, created if it has none yet."""
        if _REGISTER not in vars(model):
            setattr(model, _REGISTER, _Register(model))
        return vars(model)[_REGISTER]

    def add(self, attachment: Attached) -> None:
        parts = [attachment.part(self.model, i) for i in range(len(self.blocks))]
        _check_compatible(parts[0], [row[0] for row in self._parts.values()])
        reset_caches(self.model, check_runnable(self.model, [attachment]))
        self.attached.append(attachment)
        self._parts[attachment] = parts
        self._update_processors()

    def remove(self, attachment: Attached) -> None:
        if attachment in self.attached:
            self.attached.remove(attachment)
            reset_caches(self.model)
            del self._parts[attachment]
        if self.attached:
            self._update_processors()
            return
        for handle in self._handles:
            handle.remove()
        for block, inner in zip(self.blocks, self._inner, strict=True):
            attention = self.adapter.attention(block)
            if isinstance(attention.processor, GroupedSelfAttention):
                attention.processor = inner
        delattr(self.model, _REGISTER)

    def _update_processors(self) -> None:
        """Give each block a processor with the parts of all attachments; processors set by other code stay."""
        hooked = " ".join(str(each.number) for each in self.attached if each.hooks_inside)
        for i, (block, inner) in enumerate(zip(self.blocks, self._inner, strict=True)):
            attention = self.adapter.attention(block)
            if attention.processor is inner or isinstance(attention.processor, GroupedSelfAttention):
                parts = (self._parts[each][i] for each in self.attached)
                parts = tuple(part for part in parts if part is not None)
                attention.processor = GroupedSelfAttention(inner, self.adapter, block, parts, hooked)

    def _carry(self, grid: Grid | None, carrier: Carrier) -> Carrier:
        for attachment in self.attached:
            check_supported(self.model, attachment.kind)
            if grid is None and (attachment.places_frames or attachment.needs_frames):
                raise InputError(
                    f"This call of the {type(self.model).__name__} does not tell the number and size of its frames, "
                    f"which {attachment.kind} needs; give them, or detach {attachment.kind}."
                )
            carrier = attachment.rotary(self.model, grid, carrier)
        return carrier

    def _begin(self, _model: nn.Module, _args: tuple[Any, ...]) -> None:
        if torch.compiler.is_compiling():
            return
        check_runnable(self.model, self.attached)
        thread = threading.get_ident()
        if self._depth and thread != self._thread:
            raise MemkitError(
                "Two threads call the same transformer while memory is attached to it, which would mix up their "
                "chunks; give each thread its own transformer, or call it from one thread at a time."
            )
        self._thread, self._depth = thread, self._depth + 1

    def _end(self, _model: nn.Module, _args: tuple[Any, ...], _output: Any) -> None:
        if not torch.compiler.is_compiling() and self._depth and threading.get_ident() == self._thread:
            self._depth -= 1


def _check_compatible(part: Part | None, others: Sequence[Part | None]) -> None:
    if isinstance(part, Positioning) and any(isinstance(other, Positioning) for other in others):
        raise InputError("The transformer has camera positions attached already; detach those first.")
    if isinstance(part, Grouping) and any(isinstance(other, Grouping) for other in others):
        raise InputError(
            "The transformer has something attached already that says which frames see each other, teacher forcing or "
            "frame visibility; detach that first."
        )
    both = (part, *others)
    if any(isinstance(each, Routing) for each in both) and any(isinstance(each, Grouping) for each in both):
        raise InputError(
            "Routed context says which frames see each other, as do teacher forcing and frame visibility; detach the "
            "one before attaching the other."
        )
