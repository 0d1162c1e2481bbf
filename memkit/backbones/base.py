"""What an injector needs of a model: a table of one self-attention call to extend, layer by layer.

A backbone adapter (``wan_attention.py``) calls an `Injection` at three moments of each layer. Several injections on one
layer extend the same table, so injectors compose. A `Positioning` and a `Grouping` say where the layer's own tokens are
and whom they see, before any injection looks at the table.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

VIDEO = "X"
"""The group of the model's own tokens."""


@dataclass
class Table:
    """The groups of one self-attention call [B,S,H,D] and who sees whom; see ``memkit.attention.grouped_attention``."""

    q: dict[str, Tensor]
    kv: dict[str, tuple[Tensor, Tensor]]
    sees: dict[str, tuple[str, ...]]
    log_weight: dict[str, Tensor] = field(default_factory=dict)


@runtime_checkable
class Injection(Protocol):
    """What an injector does in one layer. Its tensors are attributes, so that all layers share one compiled graph."""

    def prepare(self, block: nn.Module, hidden: Tensor, temb: Tensor) -> Any:
        """Before the block, with its inputs: what ``extend`` will need, or None to leave this layer as it is."""
        ...

    def extend(self, table: Table, attn: nn.Module, prepared: Any) -> str:
        """Add groups, and who sees them, to the table; gives the name of the main one, which ``finish`` gets back."""
        ...

    def finish(self, table: Table, group: str, out: dict[str, Tensor]) -> None:
        """After the attention: reduce what it added to ``out`` to the model's own group again."""


@runtime_checkable
class Positioning(Protocol):
    """Gives a layer's own tokens their positions, in place of the stock rotation; at most one in a model.

    It acts before any `Injection` looks at the table, whatever was attached first: a cache holds keys and values with
    their positions in them, and tokens that an injection adds have none.
    """

    def prepare(self, block: nn.Module, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> Any:
        """Before the block, with its inputs: what the other two will need, never None."""
        ...

    def enter(
        self, q: Tensor, k: Tensor, v: Tensor, rotary: tuple[Tensor, Tensor], prepared: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [B,S,H,D] with their positions, from those without."""
        ...

    def leave(self, attn: nn.Module, y: Tensor, prepared: Any) -> Tensor:
        """The layer's output [B,S,D] from what attention gave [B,S,H,D], by ``attn.to_out[0]``."""
        ...


class Groups(NamedTuple):
    """Runs of a layer's own tokens, which together are all of them in their order, and whom each of them sees."""

    spans: dict[str, slice]
    sees: dict[str, tuple[str, ...]]


@runtime_checkable
class Grouping(Protocol):
    """Says who of a layer's own tokens sees whom, where not all see all; at most one in a model.

    Each group is then a self-attention call of its own, and every `Injection` extends it as it would that of a model
    that runs those tokens alone, at their own timestep.
    """

    def split(self, block: nn.Module, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> Groups:
        """Before the block, with its inputs."""
        ...


Part = Injection | Positioning | Grouping
"""What may be attached to a layer."""
