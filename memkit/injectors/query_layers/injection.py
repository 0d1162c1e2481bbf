"""Self-attention in a model with `QueryLayers`: the visibility between groups, and the end of the context's pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from memkit.attention import attention_share
from memkit.backbones.base import VIDEO, Carrier, Table
from memkit.errors import MemkitError
from memkit.injectors.attention_shares import frame_shares
from memkit.injectors.query_layers.chunk import KeysAndValues, Pass
from memkit.injectors.query_layers.config import QueryLayersConfig

QUERY, CONTEXT = "query", "context"

CONTEXT_SHARES, QUERY_SHARES = "context", "queries"
"""Series of an `AttentionRecorder`: shares of the queries on context frames, and of the video on the queries."""


class ContextDone(Exception):
    """Ends the pass of the context when the last query layer has its keys and values."""


@contextlib.contextmanager
def uncompiled(block: Any) -> Iterator[None]:
    """Run a block that was compiled by itself (``compile_repeated_blocks``) as it is: no exception leaves a graph."""
    if (compiled := block._compiled_call_impl) is None:
        yield
        return
    block._compiled_call_impl = None
    try:
        yield
    finally:
        block._compiled_call_impl = compiled


@contextlib.contextmanager
def leaving(block: Any, kept: dict[int, KeysAndValues], layer: int) -> Iterator[None]:
    """Let the pass of the context end inside a block, also one that is compiled by itself or sharded by FSDP.

    FSDP frees the weights of a block after its forward, and gathers them again for the backward pass when the gradients
    of its outputs arrive. So the block returns the keys and values, and the pass ends after FSDP's own hook.
    """
    if not isinstance(block, FSDPModule):
        with uncompiled(block):
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
        with uncompiled(block):
            yield
    finally:
        hook.remove()
        del block.forward


class QueryLayer:
    """The injection of one layer."""

    def __init__(self, config: QueryLayersConfig, layer: int, key: str) -> None:
        self.config, self.layer, self.key = config, layer, key

    def prepare(self, block: nn.Module, hidden: Tensor, temb: Any, carrier: Carrier) -> Pass:
        """The pass that the block runs in."""
        if carrier.grad and not torch.is_grad_enabled():
            raise MemkitError(
                "Reentrant checkpointing gives query layers wrong gradients; call "
                "transformer.enable_gradient_checkpointing() without a function of your own, or with "
                "use_reentrant=False."
            )
        return carrier.state(self.key)

    def extend(self, table: Table, attn: nn.Module, prepared: Pass) -> str:
        """Split the video into Q and P and set their visibility; for the context, only keep its keys and values."""
        config = self.config
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

    def finish(self, table: Table, group: str, out: dict[str, Tensor], prepared: Pass) -> None:
        """Join Q and P to one sequence again."""
        if group != QUERY:
            return
        if prepared.row is not None:  # only now, as other injections may have extended the table
            self._record(table, prepared)
        out[VIDEO] = torch.cat([out.pop(QUERY), out[VIDEO]], dim=1)

    @torch.no_grad()
    def _record(self, table: Table, prepared: Pass) -> None:
        assert prepared.row is not None
        if self.layer < self.config.layers:
            shares = frame_shares(table, QUERY, CONTEXT, prepared.context_frames)
            prepared.row.record(CONTEXT_SHARES, self.layer, shares)
        if prepared.of_queries:
            video = {VIDEO: table.q[VIDEO]}
            share = attention_share(video, table.kv, table.sees, QUERY, table.log_weight)[VIDEO]
            prepared.row.record(QUERY_SHARES, self.layer, share.mean((1, 2)))
