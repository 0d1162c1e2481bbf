"""What an injector needs of a model: a table of one self-attention call to extend, layer by layer.

A backbone adapter (``wan_attention.py``) calls an `Injection` at three moments of each layer. Several injections on one
layer extend the same table, so injectors compose.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

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
