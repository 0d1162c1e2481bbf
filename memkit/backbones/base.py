"""What an injector needs of a model: a table of one self-attention call to extend, layer by layer.

A backbone adapter (``wan_attention.py``) calls an `Injection` at three moments of each self-attention. Several
injections on one layer extend the same table, so injectors compose. A `Positioning` and a `Grouping` say which
positions the layer's own tokens have and which of them see each other, before any injection looks at the table.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from memkit.errors import MemkitError

VIDEO = "X"
"""The group of the model's own tokens."""


class Carrier(NamedTuple):
    """What travels with one forward of a model, from its rotary embedding to the self-attention of every block.

    The model hands what ``rope`` returned to each block, and the block hands it to its self-attention, untouched. So a
    block that gradient checkpointing runs again finds the state of the forward that it was first run in. Offloading
    (accelerate, diffusers) rebuilds tuples and dictionaries while it moves their tensors: a NamedTuple keeps its fields
    through that, and objects in ``states`` stay the same objects, as long as they have no method ``to``.
    """

    cos: Tensor
    sin: Tensor
    states: dict[str, Any]
    """State of each attachment for this forward, by its key."""
    grad: bool
    """Whether gradients were enabled when the forward began."""
    temb: Tensor | None = None
    """Modulation of the block [B,6,D], or [B,S,6,D] with one timestep per token; None outside a block."""

    @property
    def rotary(self) -> tuple[Tensor, Tensor]:
        """The tables (cos, sin), as the stock model has them."""
        return self.cos, self.sin

    def state(self, key: str) -> Any:
        """The state of an attachment. Raises `MemkitError` in a block that no forward of its transformer has called."""
        if key not in self.states:
            raise MemkitError(
                f"A block ran outside a forward of its transformer, which {key} needs; call the transformer, or detach "
                f"{key}."
            )
        return self.states[key]

    def with_state(self, key: str, state: Any) -> Carrier:
        """The same carrier with the state of one more attachment."""
        return self._replace(states={**self.states, key: state})


@dataclass
class Table:
    """The groups of one self-attention call [B,S,H,D] and their visibility, for `grouped_attention`."""

    q: dict[str, Tensor]
    kv: dict[str, tuple[Tensor, Tensor]]
    sees: dict[str, tuple[str, ...]]
    log_weight: dict[str, Tensor] = field(default_factory=dict)


@runtime_checkable
class Injection(Protocol):
    """What an injector does in one layer. Its tensors are attributes, so that all layers share one compiled graph."""

    def prepare(self, block: nn.Module, hidden: Tensor, temb: Tensor, carrier: Carrier) -> Any:
        """Inside the self-attention of ``block``: what the other two methods need, or None to leave the layer alone.

        ``hidden`` [B,S,D] is the input of the self-attention and ``temb`` the modulation of its tokens. The weights of
        the block are on their device by now, whatever offloads them.
        """
        ...

    def extend(self, table: Table, attn: nn.Module, prepared: Any) -> str:
        """Add groups and their visibility to the table; returns the name of the main one for ``finish``."""
        ...

    def finish(self, table: Table, group: str, out: dict[str, Tensor], prepared: Any) -> None:
        """After the attention: reduce what was added to ``out`` to the model's own group again."""


@runtime_checkable
class Positioning(Protocol):
    """Gives a layer's own tokens their positions, in place of the stock rotation; at most one per model.

    It acts before any `Injection` looks at the table, whatever was attached first: a cache holds keys and values with
    their positions in them, and tokens that an injection adds have none.
    """

    def position(self, hidden: Tensor, carrier: Carrier) -> Any:
        """What the other two methods need, never None; ``hidden`` [B,S,D] is the input of the self-attention."""
        ...

    def enter(
        self, q: Tensor, k: Tensor, v: Tensor, rotary: tuple[Tensor, Tensor], position: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [B,S,H,D] with their positions, from those without."""
        ...

    def leave(self, attn: nn.Module, y: Tensor, position: Any) -> Tensor:
        """The layer's output [B,S,D] from what attention gave [B,S,H,D], by ``attn.to_out[0]``."""
        ...


class Groups(NamedTuple):
    """Consecutive groups of a layer's own tokens, which together are all of them, and their visibility."""

    spans: dict[str, slice]
    sees: dict[str, tuple[str, ...]]


@runtime_checkable
class Grouping(Protocol):
    """Says which of a layer's own tokens see which, where not all see all; at most one per model.

    Each group is then a self-attention call of its own, and every `Injection` extends it as it would extend that of a
    model that runs those tokens alone, at their own timestep.
    """

    def split(self, carrier: Carrier) -> Groups:
        """The groups of this forward."""
        ...


Part = Injection | Positioning | Grouping
"""What may be attached to a layer."""
