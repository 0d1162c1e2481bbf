"""The backbone protocol: what memkit needs to know of a video transformer, as one adapter per class of model.

An adapter says where a model's blocks and their self-attention are, how tokens are normed, modulated and projected
there, which rotary tables belong to which frames, and how the state of a forward pass (`Carrier`) reaches the
attention. It has no state of its own and changes nothing but through the hooks that `BackboneAdapter.watch` registers.

The adapters of diffusers' models are in ``memkit/backbones/adapters/``, one per file. For any other model whose
self-attention calls a ``processor`` as in diffusers, write a subclass and put an instance on the model (or on its
class), which all ``attach`` methods then find, also through pipelines and wrappers:

    model.memkit_adapter = MyAdapter()

At the least, it says which modules and arguments are meant, and has `blocks`, `watch` and `modulate`; a `KVCache` also
needs `rotary_at`, and teacher forcing `timesteps`. ``tests/backbones/test_adapters_own.py`` has one of 30 lines.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any, ClassVar, NamedTuple

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from memkit.backbones.base import BEYOND_MEMORY_TOKENS, Carrier, Groups, Table
from memkit.errors import MemkitError

Model = Any
"""A transformer, one of its blocks or an attention; torch declares no types for their submodules."""

Tables = tuple[Tensor | None, Tensor | None]
"""Rotary tables (cos, sin), each [B or 1, S, H or 1, D] with the two channels of a pair adjacent; None without any."""


class Sizes(NamedTuple):
    """Sizes of a transformer."""

    layers: int
    heads: int
    head_dim: int
    channels: int
    """Number of latent channels of the input."""
    patch_size: tuple[int, int, int]
    """In latent (frames, rows, columns)."""

    @property
    def width(self) -> int:
        """Width of the hidden states, and of memory tokens."""
        return self.heads * self.head_dim


class Grid(NamedTuple):
    """The grid of video tokens of one forward pass."""

    frames: int
    height: int
    width: int
    own: Any = None
    """What else the adapter needs to compute rotary tables for these tokens."""

    @property
    def tokens_per_frame(self) -> int:
        """Number of tokens of one frame (of patches)."""
        return self.height * self.width


class Call(NamedTuple):
    """The arguments with which a model calls the processor of a self-attention."""

    hidden: Tensor
    """Normed and modulated video tokens [B,S,D]."""
    text: Tensor | None
    """The text tokens of a joint attention [B,L,D], otherwise None."""
    mask: Any
    carrier: Carrier
    more: dict[str, Any]
    """Further keyword arguments of the model's own processor."""


class BackboneAdapter(ABC):
    """What memkit needs of a class of video transformers. The defaults are those of Wan and many models like it."""

    model_class: ClassVar[type[nn.Module]]
    """The class of transformers; subclasses of it are included."""
    processors: ClassVar[tuple[type, ...]]
    """The classes of the stock processors of its self-attention, which memkit replaces while something is attached."""
    block_arguments: ClassVar[tuple[str, ...]] = ("hidden_states", "encoder_hidden_states", "temb", "rotary_emb")
    """Names of the arguments of a block's ``forward``, in their order. Gradient checkpointing passes them by position,
    some models by keyword."""
    modulation_argument: ClassVar[str] = "temb"
    """The argument of a block from which it computes its modulation."""
    rotary_argument: ClassVar[str] = "rotary_emb"
    """The argument that a block passes to its self-attention unchanged; the `Carrier` travels in it."""
    unsupported: ClassVar[Mapping[str, str]] = dict.fromkeys(
        BEYOND_MEMORY_TOKENS, "its adapter does not say that it can be"
    )
    """Kinds of attachment that the model cannot have, with the reason as a clause for the error; by default all but
    memory tokens. Frame context and query layers rely on more of Wan's forward than an adapter describes."""
    norms_each_head: ClassVar[bool] = False
    """Whether queries and keys are normalised per head; otherwise over all heads together."""

    def why_not(self, model: Model, kind: str) -> str | None:
        """Why this kind of attachment is not supported by this model, or None. Asked again at every forward pass."""
        return self.unsupported.get(kind)

    # -- structure -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def blocks(self, model: Model) -> tuple[Model, ...]:
        """The blocks whose self-attention is extended, in the order of their layers."""

    def attention(self, block: Model) -> Model:
        """The self-attention of a block."""
        return block.attn1

    def sizes(self, model: Model) -> Sizes:
        """The sizes of a transformer; read from its config, in either of diffusers' two conventions for patches."""
        config, patch = model.config, model.config.patch_size
        patch_size = (config.patch_size_t or 1, patch, patch) if isinstance(patch, int) else tuple(patch)
        layers = len(self.blocks(model))
        return Sizes(layers, config.num_attention_heads, config.attention_head_dim, config.in_channels, patch_size)

    # -- the forward pass ----------------------------------------------------------------------------------------------

    @abstractmethod
    def watch(self, model: Model, begin: Callable[[Grid | None, Carrier], Carrier]) -> list[RemovableHandle]:
        """Register hooks that call ``begin`` once per forward pass and pass what it returns to every block.

        ``begin`` takes the grid of the tokens, or None if the call does not tell it, and `carrier` of the model's own
        rotary tables.
        """

    def carrier(self, rotary: Any, own: Any = None) -> Carrier:
        """A new carrier of the model's rotary embedding; ``own`` is what the adapter needs in the attention."""
        return Carrier(*self.tables(rotary), states={}, grad=torch.is_grad_enabled(), own=own)

    def carrier_in(self, rotary: Any) -> Carrier | None:
        """The carrier in the rotary argument of a block, or None if the block was called outside its transformer."""
        return rotary if isinstance(rotary, Carrier) else None

    def arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of the transformer's ``forward`` by name, whether passed by position or by keyword."""
        return {**dict(zip(self._forward_arguments, args, strict=False)), **kwargs}

    _forward_arguments: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "model_class" in vars(cls):  # now rather than in a hook, where torch.compile would have to trace it
            cls._forward_arguments = tuple(signature(cls.model_class.forward).parameters)[1:]

    def timesteps(self, timestep: Tensor, batch: int, grid: Grid) -> Tensor:
        """Timesteps [B], or [B,F] with one per frame (of patches), as the finest that the model takes: [B,N]."""
        raise MemkitError(f"{type(self).__name__} does not say how {self.model_class.__name__} takes timesteps.")

    def with_timesteps(self, named: dict[str, Any], timestep: Tensor) -> dict[str, Any]:
        """The arguments ``named`` of the forward with the timesteps [B,N] that `timesteps` gave."""
        raise MemkitError(f"{type(self).__name__} does not say how {self.model_class.__name__} takes timesteps.")

    # -- tokens before the attention -----------------------------------------------------------------------------------

    @abstractmethod
    def modulate(self, block: Model, tokens: Tensor, temb: Any) -> Tensor:
        """Normalise and modulate extra tokens [B,M,D] as ``block`` does with its video tokens before self-attention.

        ``temb`` is the block's `modulation_argument`. Called inside the block, where its weights are on their device.
        """

    def modulation_of(self, temb: Any, span: slice) -> Any:
        """The modulation of the tokens in ``span``, for models with a timestep per token."""
        return temb

    # -- rotary tables -------------------------------------------------------------------------------------------------

    def tables(self, rotary: Any) -> Tables:
        """The model's own rotary embedding as tables that all injectors understand."""
        return rotary

    def own_rotary(self, carrier: Carrier) -> Any:
        """The tables of a carrier in the model's own form again."""
        return carrier.rotary

    def rotary_at(self, model: Model, positions: Sequence[int], grid: Grid) -> tuple[Tensor, Tensor]:
        """Rotary tables for frames at any whole ``positions``: the model's own, bit for bit, at 0…frames−1."""
        raise MemkitError(f"{type(self).__name__} does not say which rotary tables belong to which frames.")

    # -- the attention -------------------------------------------------------------------------------------------------

    def fused(self, attn: Model) -> bool:
        """Whether the model's processor reads the fused ``to_qkv`` instead of ``to_q``, ``to_k`` and ``to_v``."""
        return getattr(attn, "fused_projections", False)

    def project(self, attn: Model, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys (normalised, without position) and values [B,S,H,D] of ``hidden`` [B,S,D]."""
        if self.fused(attn):
            q, k, v = attn.to_qkv(hidden).chunk(3, dim=-1)
        else:
            q, k, v = attn.to_q(hidden), attn.to_k(hidden), attn.to_v(hidden)
        return self._normed(attn, attn.norm_q, q), self._normed(attn, attn.norm_k, k), v.unflatten(2, (attn.heads, -1))

    def project_own(self, attn: Model, call: Call) -> tuple[Tensor, Tensor, Tensor]:
        """`project` of the video's own tokens. A model with a cache of its own writes to it here."""
        return self.project(attn, call.hidden)

    def project_kv(self, attn: Model, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values as of `project`, by the attention's own modules.

        Fused projections compute the queries too: slicing their weight would bypass a LoRA or a cast on them.
        """
        if self.fused(attn):
            _, k, v = attn.to_qkv(hidden).chunk(3, dim=-1)
        else:
            k, v = attn.to_k(hidden), attn.to_v(hidden)
        return self._normed(attn, attn.norm_k, k), v.unflatten(2, (attn.heads, -1))

    def _normed(self, attn: Model, norm: nn.Module | None, x: Tensor) -> Tensor:
        if norm is None or not self.norms_each_head:
            return (x if norm is None else norm(x)).unflatten(2, (attn.heads, -1))
        return norm(x.unflatten(2, (attn.heads, -1)))

    def groups(self, call: Call) -> Groups | None:
        """The visibility between video tokens that the model's own mask demands, or None for full attention."""
        return None

    def join(self, attn: Model, table: Table, call: Call) -> None:
        """Add the text to the table, as the group `TEXT`, where the model attends to text and video jointly.

        Both groups see (VIDEO, TEXT) or (TEXT, VIDEO), in the order in which the model itself concatenates them.
        """
        return None

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, backend: Any) -> Tensor:
        """Attention over [B,S,H,D] by a backend of diffusers; None is the active one."""
        return dispatch_attention_fn(q, k, v, attn_mask=mask, backend=backend)

    def project_out(self, attn: Model, y: Tensor) -> Tensor:
        """The output projection of the video's attention output [B,S,H,D], to [B,S,D]."""
        return attn.to_out[0](y.flatten(2, 3))

    def output(self, attn: Model, video: Tensor, text: Tensor | None) -> Any:
        """What the processor returns: of ``video`` [B,S,D], from `project_out`, and of the text's attention output
        [B,L,H,D] if `join` has added text."""
        return attn.to_out[1](video)

    def stock(self, inner: Any, attn: Model, call: Call) -> Any:
        """Call the model's own processor."""
        return inner(attn, call.hidden, call.text, call.mask, self.own_rotary(call.carrier), **call.more)
