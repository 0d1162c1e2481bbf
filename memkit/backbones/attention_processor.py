"""The attention processor of a model with attachments, and the hook that each block gets.

A processor does not receive the modulation of its block, so the hook adds it to the `Carrier` in the rotary argument,
which the block passes on unchanged. Everything else happens inside the self-attention, when offloaded weights are on
their device, and through the block's own modules, so that LoRA and quantisation also apply to memory. No state is kept
between hook and processor: gradient checkpointing may run a block twice, and ``torch.compile`` traces a pure function.
What differs between models is in their `BackboneAdapter`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NoReturn

import torch
from torch import Tensor

from memkit.attention import grouped_attention
from memkit.backbones.base import TEXT, VIDEO, Carrier, Grouping, Groups, Injection, Part, Positioning, Routing, Table
from memkit.backbones.context_parallel import HeadParallel, check_one_timestep
from memkit.backbones.protocol import BackboneAdapter, Call, Model
from memkit.backbones.rotary import rotate
from memkit.errors import MemkitError


@cache
def modulation_hook(adapter: BackboneAdapter) -> Callable[..., Any]:
    """The forward pre-hook of the blocks of all models of an adapter; one object, so that compiled blocks share it."""
    return partial(_carry_modulation, adapter)


def _carry_modulation(
    adapter: BackboneAdapter, block: Model, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Add the block's modulation to the carrier in its rotary argument.

    Raises:
        MemkitError: the block's processor was replaced while something is attached.
    """
    if type(adapter.attention(block).processor) is not GroupedSelfAttention:
        raise MemkitError(
            "The attention processors of the transformer were replaced (set_attn_processor, set_processor) while "
            "memory is attached, so the memory would be ignored; detach it first, or set the processors before "
            "attaching."
        )
    names = adapter.block_arguments
    named = {**dict(zip(names, args, strict=False)), **kwargs}
    rotary = named.get(adapter.rotary_argument)
    carrier = adapter.carrier_in(rotary) or adapter.carrier(rotary)
    carrier = carrier._replace(temb=named[adapter.modulation_argument])
    at = names.index(adapter.rotary_argument)
    if at < len(args):
        return (*args[:at], carrier, *args[at + 1 :]), kwargs
    return args, {**kwargs, adapter.rotary_argument: carrier}


def refuse_copy(what: object, *_: object) -> NoReturn:
    """Raise `MemkitError`: the copy of an attached model would keep the memory, which nothing could detach."""
    raise MemkitError(
        "A transformer cannot be copied or pickled while memory is attached to it; detach the memory first, or save "
        "its state_dict()."
    )


class GroupedSelfAttention:
    """Processor of a self-attention while something is attached; not a module, so it adds nothing to state dicts."""

    __deepcopy__ = __reduce_ex__ = refuse_copy

    def __init__(
        self, inner: Any, adapter: BackboneAdapter, block: Model, parts: tuple[Part, ...], hooked: str = ""
    ) -> None:
        self.inner = inner
        self.hooked = hooked
        """Which attachments have hooks inside of the block. torch.compile looks at no hooks when it chooses among what
        it has compiled, but at this."""
        self.adapter = adapter
        self.block = block
        self.injections = tuple(part for part in parts if _has_role(type(part), Injection))
        self.positioning = next((part for part in parts if _has_role(type(part), Positioning)), None)
        self.routing = next((part for part in parts if _has_role(type(part), Routing)), None)
        self.grouping = next((part for part in parts if _has_role(type(part), Grouping)), None)

    @property
    def _attention_backend(self) -> Any:
        return self.inner._attention_backend

    @_attention_backend.setter
    def _attention_backend(self, backend: Any) -> None:  # diffusers' set_attention_backend writes here
        self.inner._attention_backend = backend

    @property
    def _parallel_config(self) -> Any:
        return self.inner._parallel_config

    @_parallel_config.setter
    def _parallel_config(self, config: Any) -> None:
        self.inner._parallel_config = config

    def __call__(
        self,
        attn: Model,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Any = None,
        rotary_emb: Carrier | None = None,
        image_rotary_emb: Carrier | None = None,
        **more: Any,
    ) -> Any:
        """The stock self-attention, extended by the injections, with the positions and visibility of the parts.

        ``image_rotary_emb`` is another name of ``rotary_emb`` in diffusers' models; ``more`` is passed on to the stock
        processor.
        """
        _ = self.hooked == ""  # for torch.compile, see there
        carrier = rotary_emb if image_rotary_emb is None else image_rotary_emb
        if not isinstance(carrier, Carrier) or carrier.temb is None:
            raise MemkitError(
                "The attention of a block ran without the hooks of the block, so the attached memory would be ignored. "
                "Call the block itself, or detach the memory."
            )
        adapter, call = self.adapter, Call(hidden_states, encoder_hidden_states, attention_mask, carrier, more)
        if self.routing is not None and adapter.groups(call) is not None:
            raise MemkitError(
                "The model decides by itself which frames see each other (it is causal over chunks), as routed context "
                "does; detach that, or call the model with full attention."
            )
        groups = adapter.groups(call) if self.grouping is None else self.grouping.split(carrier)
        position = None if self.positioning is None else self.positioning.position(hidden_states, carrier)
        prepared = [
            [
                injection.prepare(
                    self.block, hidden_states[:, span], adapter.modulation_of(carrier.temb, span), carrier
                )
                for injection in self.injections
            ]
            for span in ((slice(None),) if groups is None else groups.spans.values())
        ]
        unchanged = all(value is None for row in prepared for value in row)
        if unchanged and self.positioning is None and self.grouping is None and self.routing is None:
            return adapter.stock(self.inner, attn, call)
        q, k, v = adapter.project_own(attn, call)
        if self.positioning is not None:
            q, k, v = self.positioning.enter(q, k, v, carrier.rotary, position)
        elif carrier.cos is not None:
            q, k = rotate(q, *carrier.rotary), rotate(k, *carrier.rotary)
        if groups is None:
            parallel = HeadParallel.of(getattr(self.inner, "_parallel_config", None))
            if parallel is not None:
                check_one_timestep(carrier.temb)
                q, k, v = (parallel.all_tokens(x) for x in (q, k, v))
            table = Table(q={VIDEO: q}, kv={VIDEO: (k, v)}, sees={VIDEO: (VIDEO,)})
            adapter.join(attn, table, call)
            out = self._extended(attn, table, prepared[0], carrier, parallel)
        else:
            tables = _tables_of(groups, q, k, v)
            parts = [self._extended(attn, *pair, carrier)[VIDEO] for pair in zip(tables, prepared, strict=True)]
            out = {VIDEO: torch.cat(parts, dim=1)}
        y, project = out[VIDEO].type_as(q), partial(adapter.project_out, attn)
        video = project(y) if self.positioning is None else self.positioning.leave(y, project, position)
        return adapter.output(attn, video, out[TEXT].type_as(q) if TEXT in out else None)

    def _extended(
        self,
        attn: Model,
        table: Table,
        prepared: list[Any],
        carrier: Carrier,
        parallel: HeadParallel | None = None,
    ) -> dict[str, Tensor]:
        """The attention outputs [B,S,H,D] of the model's own queries, over the table extended by the injections."""
        active = [pair for pair in zip(self.injections, prepared, strict=True) if pair[1] is not None]
        names = [injection.extend(table, attn, value) for injection, value in active]
        if parallel is not None:
            own = table.kv.pop(VIDEO)
            table.kv = {name: (parallel.own_heads(k), parallel.own_heads(v)) for name, (k, v) in table.kv.items()}
            table.kv[VIDEO] = own
        if self.routing is not None:
            video = table.q[VIDEO]  # an injection may have these queries in other groups too
            route = self.routing.route(attn, video, table.kv[VIDEO][0], carrier)
            table.routes = {
                (name, VIDEO): route for name, q in table.q.items() if q is video and VIDEO in table.sees[name]
            }
        out = grouped_attention(table.q, table.kv, table.sees, table.log_weight, self._attend, table.routes)
        if parallel is not None:
            out = {name: parallel.all_heads(y) for name, y in out.items()}
        for (injection, value), name in zip(reversed(active), reversed(names), strict=True):
            injection.finish(table, name, out, value)
        return out

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        backend = getattr(self.inner, "_attention_backend", None)
        try:
            return self.adapter.attend(q, k, v, mask, backend)
        except ValueError as error:
            if mask is None:
                raise
            name = getattr(backend, "value", backend) or "in use"
            raise MemkitError(
                f"The attention backend {name} cannot add log-weights to keys, as memory that is masked or weighted "
                f"needs ({error}); call transformer.set_attention_backend('native') or, for weights of "
                "ln(n), attach memory.expand()."
            ) from error


@cache
def _has_role(kind: type, role: type) -> bool:
    """Whether parts of a class have a role. Asked once per class: for a protocol it takes as long as a small layer."""
    return issubclass(kind, role)


def _tables_of(groups: Groups, q: Tensor, k: Tensor, v: Tensor) -> list[Table]:
    """One table per group, in which the tokens of that group are the video and the other groups keep their names."""
    sizes = [span.stop - span.start for span in groups.spans.values()]
    # One split has one backward pass, where a slice per group would have one each, over all tokens.
    queries, *own = (dict(zip(groups.spans, x.split(sizes, dim=1), strict=True)) for x in (q, k, v))
    keys = {name: (own[0][name], own[1][name]) for name in groups.spans}
    tables = []
    for name, query in queries.items():
        others = tuple(other for other in groups.sees[name] if other != name)
        row = (VIDEO, *others) if name in groups.sees[name] else others
        kv = {VIDEO: keys[name], **{other: keys[other] for other in others}}
        tables.append(Table(q={VIDEO: query}, kv=kv, sees={VIDEO: row}))
    return tables
