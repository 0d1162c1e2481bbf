"""One self-attention of a model with `QueryLayers`: who sees whom, and how the context's pass leaves the last one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from memkit.backbones.base import VIDEO, Table
from memkit.injectors.query_layers.chunk import KeysAndValues, Pass

if TYPE_CHECKING:
    from memkit.injectors.query_layers.attachment import QueryAttachment

QUERY, CONTEXT = "query", "context"


class ContextDone(Exception):
    """The last query layer has the keys and values of the context: nothing after them is needed."""


@contextlib.contextmanager
def leaving(block: Any, kept: dict[int, KeysAndValues], layer: int) -> Iterator[None]:
    """Inside, a sharded block ends as any block does where the pass of the context leaves it.

    FSDP gathers a block's weights for the backward pass when the gradients of its outputs come, and lets them go after
    its forward. So the keys and values are made its outputs, and the pass is left behind FSDP's own hook.
    """
    if not isinstance(block, FSDPModule):
        yield
        return
    stock = block.forward

    def forward(*args: Any, **kwargs: Any) -> KeysAndValues:
        with contextlib.suppress(ContextDone):
            stock(*args, **kwargs)
        return kept[layer]

    def leave(_block: nn.Module, _args: tuple, output: KeysAndValues) -> None:
        kept[layer] = output
        raise ContextDone

    block.forward, hook = forward, block.register_forward_hook(leave)
    try:
        yield
    finally:
        hook.remove()
        del block.forward


def pass_unchanged(_attn: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
    """The context leaves the self-attention as it came: nothing is added to it, not even the projection's bias."""
    return torch.zeros_like(output) if args[3].rotary.of.of_context else None


class QueryLayer:
    """The injection of one layer."""

    def __init__(self, attachment: QueryAttachment, layer: int) -> None:
        self.attachment = attachment
        self.layer = layer

    def prepare(self, block: nn.Module, hidden: Tensor, temb: Tensor) -> Pass:
        """The pass that the block runs in."""
        assert self.attachment.running is not None
        return self.attachment.running

    def extend(self, table: Table, attn: nn.Module, prepared: Pass) -> str:
        """Split the video in Q and P, and say who sees whom; of the context, only keep what others will see."""
        config = self.attachment.query.config
        if prepared.of_context:
            prepared.kept[self.layer] = table.kv[VIDEO]
            if self.layer == config.layers - 1:
                raise ContextDone
            table.sees[VIDEO] = ()
            return VIDEO
        half, (k, v), q = table.q[VIDEO].shape[1] // 2, table.kv[VIDEO], table.q[VIDEO]
        table.q |= {QUERY: q[:, :half], VIDEO: q[:, half:]}
        table.kv |= {QUERY: (k[:, :half], v[:, :half]), VIDEO: (k[:, half:], v[:, half:])}
        others = tuple(group for group in table.sees[VIDEO] if group != VIDEO)
        row = (VIDEO,) if config.query_sees_prediction else ()
        row += (QUERY,) if config.query_sees_query else ()
        if self.layer < len(prepared.context):
            table.kv[CONTEXT] = prepared.context[self.layer]
            row += (CONTEXT,)
        table.sees |= {QUERY: (*row, *others), VIDEO: (VIDEO, QUERY, *others)}
        return QUERY

    def finish(self, table: Table, group: str, out: dict[str, Tensor]) -> None:
        """Q and P as one sequence again."""
        if group == QUERY:
            running = self.attachment.running
            assert running is not None
            if running.row is not None:  # others may have extended the table since
                if self.layer < running.row.layers:
                    running.row.record(self.layer, table, QUERY, CONTEXT)
                running.row.follow(self.layer, table, VIDEO, QUERY)
            out[VIDEO] = torch.cat([out.pop(QUERY), out[VIDEO]], dim=1)
