"""Interfaces between injectors and a model: what may be added to the self-attention of a layer.

The processor of a self-attention (``attention_processor.py``) calls an `Injection` three times. All injections of a
layer extend the same `Table`, so injectors compose. A `Positioning` sets the positions of the layer's own tokens and
a `Grouping` their visibility to each other, before any injection extends the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from memkit.errors import MemkitError

VIDEO = "X"
"""Name of the group of the model's own video tokens."""

TEXT = "T"
"""Name of the group of text tokens, in models that attend to text and video jointly."""

MEMORY_TOKENS = "memory tokens"
KV_CACHE = "a KV cache"
FRAME_CONTEXT = "frame context"
QUERY_LAYERS = "query layers"
TEACHER_FORCING = "teacher forcing"
CAMERA_POSITIONS = "camera positions"
RECURRENT = "recurrent memory"
ROUTED = "routed context"
CONTROL_BRANCH = "a control branch"
FRAME_VISIBILITY = "frame visibility"
FREQUENCY_BLEND = "a blend of frequencies"
BLOCK_LAYERS = "layers in its blocks"
TOKEN_POSITIONS = "token positions"
TEXT_REGIONS = "text by region"
"""Kinds of attachment, as they are called in error messages; an adapter says which of them its model cannot have."""

BEYOND_MEMORY_TOKENS = (
    *(KV_CACHE, CAMERA_POSITIONS, TEACHER_FORCING, QUERY_LAYERS, FRAME_CONTEXT, RECURRENT, ROUTED, CONTROL_BRANCH),
    *(FRAME_VISIBILITY, FREQUENCY_BLEND, BLOCK_LAYERS, TOKEN_POSITIONS, TEXT_REGIONS),
)
"""The kinds that need more of a model than memory tokens do."""


class Carrier(NamedTuple):
    """State of one forward pass, passed in place of the rotary embedding to the self-attention of every block.

    The model passes its rotary embedding to each block, and the block passes it to its self-attention, unchanged. So a
    block that gradient checkpointing recomputes finds the state of the forward pass that it first ran in. Offloading
    (accelerate, diffusers) rebuilds tuples and dictionaries while it moves their tensors: a NamedTuple keeps its fields
    through that, and the objects in ``states`` are kept as they are, provided that they have no method ``to`` and are
    no dataclasses (which FSDP copies).
    """

    cos: Tensor | None
    sin: Tensor | None
    states: dict[str, Any]
    """State of each attachment for this forward pass, by the attachment's key."""
    grad: bool
    """Whether gradients were enabled when the forward pass began."""
    temb: Any = None
    """What the block computes its modulation from (for Wan [B,6,D], or [B,S,6,D] with one timestep per token); None
    outside a block."""
    own: Any = None
    """What the model's adapter keeps of this forward pass."""

    @property
    def rotary(self) -> tuple[Any, Any]:
        """The rotary tables (cos, sin), each [B or 1, S, H or 1, D]; None in models without rotary positions."""
        return self.cos, self.sin

    def state(self, key: str) -> Any:
        """The state of an attachment. Raises `MemkitError` if the block was not called by its transformer's forward."""
        if key not in self.states:
            raise MemkitError(
                f"A block ran outside a forward pass of its transformer, which {key} needs; call the transformer, or "
                f"detach {key}."
            )
        return self.states[key]

    def with_state(self, key: str, state: Any) -> Carrier:
        """A copy of the carrier with the state of one more attachment."""
        return self._replace(states={**self.states, key: state})


@dataclass
class Table:
    """Groups of queries, keys and values [B,S,H,D] of one self-attention call and their visibility; see
    `grouped_attention`."""

    q: dict[str, Tensor]
    kv: dict[str, tuple[Tensor, Tensor]]
    sees: dict[str, tuple[str, ...]]
    log_weight: dict[str, Tensor] = field(default_factory=dict)
    routes: dict[tuple[str, str], Tensor] = field(default_factory=dict)


@runtime_checkable
class Injection(Protocol):
    """An injector's part of one layer. Its tensors are attributes, so that all layers share one compiled graph."""

    def prepare(self, block: nn.Module, hidden: Tensor, temb: Tensor, carrier: Carrier) -> Any:
        """Compute what `extend` and `finish` need, or return None to leave this layer unchanged.

        Called inside the self-attention of ``block``, whose offloaded weights are on their device by then. ``hidden``
        [B,S,D] is the input of the self-attention, ``temb`` what the modulation of its tokens is computed from; see
        `BackboneAdapter.modulate`.
        """
        ...

    def extend(self, table: Table, attn: nn.Module, prepared: Any) -> str:
        """Add groups and their visibility to the table; return the name of the main group for `finish`."""
        ...

    def finish(self, table: Table, group: str, out: dict[str, Tensor], prepared: Any) -> None:
        """After the attention, reduce ``out`` to the model's own group again."""


@runtime_checkable
class Positioning(Protocol):
    """Positional encoding of a layer's own tokens, in place of the stock rotation; at most one per model.

    It is applied before any `Injection` extends the table, whichever was attached first: a cache holds keys and values
    with their positions applied, and tokens that an injection adds have no positions.
    """

    def position(self, hidden: Tensor, carrier: Carrier) -> Any:
        """Compute what `enter` and `leave` need, never None; ``hidden`` [B,S,D] is the input of the self-attention."""
        ...

    def enter(
        self, q: Tensor, k: Tensor, v: Tensor, rotary: tuple[Tensor, Tensor], position: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Apply the positions to queries, keys and values [B,S,H,D]."""
        ...

    def leave(self, y: Tensor, project: Callable[[Tensor], Tensor], position: Any) -> Tensor:
        """Project the attention output ``y`` [B,S,H,D] to the layer's output [B,S,D], by the layer's ``project``."""
        ...


class Groups(NamedTuple):
    """A partition of a layer's own tokens into consecutive groups, and the visibility between the groups."""

    spans: dict[str, slice]
    sees: dict[str, tuple[str, ...]]


@runtime_checkable
class Grouping(Protocol):
    """Visibility between a layer's own tokens, in place of full attention; at most one per model.

    Each group is a separate self-attention call, and every `Injection` extends it as it would in a model that runs only
    the tokens of this group, at their timestep.
    """

    def split(self, carrier: Carrier) -> Groups:
        """The groups of this forward pass."""
        ...


@runtime_checkable
class Routing(Protocol):
    """Which frames of a layer's own tokens each of its queries sees, in each head; at most one per model.

    Whatever an `Injection` adds is seen by all queries.
    """

    def route(self, attn: nn.Module, q: Tensor, k: Tensor, carrier: Carrier) -> Tensor:
        """Of queries and keys [B,S,H,D], with their positions applied: runs of keys that are seen, [B,H,S,runs] bool;
        see `memkit.attention.grouped_attention`."""
        ...


Part = Injection | Positioning | Grouping | Routing
"""What an attachment may add to a layer."""
