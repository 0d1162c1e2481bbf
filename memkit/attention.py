"""`grouped_attention`: attention from groups of queries to groups of keys, without a mask over all tokens.

A visibility table replaces the mask: each group of queries is one attention call over the keys that are visible to it,
so any attention backend can be used and no logits are computed only to be masked out. A key may carry a *log-weight*,
which is added to its logit: ln(n) stands for n copies of the key, ln(score) weights it by relevance, −inf hides it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from memkit.checks import check_floats, shown
from memkit.errors import InputError

Group = TypeVar("Group", bound=Hashable)
MAX_LOGITS = 1 << 26
"""Largest number of logits in the mask of routed queries, which are attended in parts: 256 MiB in fp32."""

Attend = Callable[[Tensor, Tensor, Tensor, "Tensor | None"], Tensor]


def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """PyTorch's scaled dot-product attention on [B,S,H,D]; ``mask`` is additive, broadcastable to [B,H,S,K]."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def grouped_attention(
    q: Mapping[Group, Float[Tensor, "batch _ heads dim"]],
    kv: Mapping[Group, tuple[Float[Tensor, "batch _ heads dim"], Float[Tensor, "batch _ heads vdim"]]],
    sees: Mapping[Group, Sequence[Group]],
    log_weight: Mapping[Group, Float[Tensor, "batch _"]] | None = None,
    attend: Attend = sdpa,
    routes: Mapping[tuple[Group, Group], Bool[Tensor, "batch heads _ _"]] | None = None,
) -> dict[Group, Float[Tensor, "batch _ heads vdim"]]:
    """Attention of each group of queries over all groups of keys that are visible to it, in a single softmax.

    Args:
        q: queries of each group, [B,S,H,D].
        kv: keys and values of each group, [B,K,H,D] and [B,K,H,Dv].
        sees: the visibility: for every group in ``q``, the groups of ``kv`` that it attends to. Their order does not
            change the result.
        log_weight: for any of the groups of ``kv``, the value added to the logit of each key, [B,K] in any float dtype.
            −inf hides a key.
        attend: the attention call, ``(q, k, v, mask) -> out`` on [B,S,H,D]; ``mask`` is None where no visible group has
            log-weights.
        routes: for pairs of a group of queries and a group of keys that is visible to it, which runs of its keys, of
            equal length, each query sees in each head: [B,H,S,runs], True where it does. All others are seen in full.

    Returns:
        The output of each group in ``q``, [B,S,H,Dv] in the dtype of its queries. Where no key is visible (none listed,
        or all at −inf), the output is 0.

    Raises:
        InputError: a group of queries has no row in ``sees``, a row names unknown or repeated groups, a log-weight has
            no keys or another shape than they have, or a tensor has another shape or dtype. Values are not looked at,
            as this runs in every layer; a log-weight of NaN gives NaN.
    """
    log_weight = {} if log_weight is None else log_weight
    _check_table(q, kv, sees, log_weight)
    routes = {} if routes is None else routes
    _check_routes(q, kv, routes)
    out = {}
    for name, query in q.items():
        own = {other: routes[name, other] for other in sees[name] if (name, other) in routes}
        if own and query.shape[1]:
            out[name] = _attend_routed(query, kv, sees[name], log_weight, attend, own)
        else:
            out[name] = _attend_group(query, kv, sees[name], log_weight, attend)
    return out


def attention_share(
    q: Mapping[Group, Float[Tensor, "batch _ heads dim"]],
    kv: Mapping[Group, tuple[Float[Tensor, "batch _ heads dim"], Float[Tensor, "batch _ heads vdim"]]],
    sees: Mapping[Group, Sequence[Group]],
    group: Group,
    log_weight: Mapping[Group, Float[Tensor, "batch _"]] | None = None,
    routes: Mapping[tuple[Group, Group], Bool[Tensor, "batch heads _ _"]] | None = None,
) -> dict[Group, Float[Tensor, "batch _ heads"]]:
    """The share of each query's attention, in [0, 1], that falls on the keys of ``group``.

    Computed as the attention output for values that are 1 in that group and 0 elsewhere, so no attention matrix is
    built.
    """
    marked = {
        name: (k, torch.full_like(k, 1.0 if name == group else 0.0, dtype=torch.float32)) for name, (k, _) in kv.items()
    }
    marked = {name: (k.float(), v) for name, (k, v) in marked.items()}
    out = grouped_attention({name: x.float() for name, x in q.items()}, marked, sees, log_weight, routes=routes)
    return {name: x[..., 0] for name, x in out.items()}


def joined(parts: Sequence[Float[Tensor, "batch _ heads dim"]]) -> Float[Tensor, "batch _ heads dim"]:
    """Keys or values [B,K,H,D] of several groups as one tensor, which is [B,H,K,D] in memory.

    On a CPU, attention reads this layout so much faster than [B,K,H,D] that the copy costs next to nothing. Parts that
    follow each other in memory already, in this layout and without a gradient, are not copied: the result is a view.
    """
    if len(parts) == 1:
        return parts[0]
    if not torch.compiler.is_compiling() and _follow_each_other(parts):
        shape = (parts[0].shape[0], sum(x.shape[1] for x in parts), *parts[0].shape[2:])
        return parts[0].as_strided(shape, parts[0].stride())
    return torch.cat([x.transpose(1, 2) for x in parts], dim=2).transpose(1, 2)


def _follow_each_other(parts: Sequence[Tensor]) -> bool:
    """Whether each part begins in memory where the one before it ends, head by head."""
    first, offset = parts[0], parts[0].storage_offset()
    step = 1 if first.shape[0] == 1 else 0  # the stride of a batch of one may be any number
    if first.stride(1) != first.shape[3] or first.stride(3) != 1:
        return False
    for x in parts:
        if x.requires_grad or x.stride()[step:] != first.stride()[step:] or x.storage_offset() != offset:
            return False
        if x.untyped_storage().data_ptr() != first.untyped_storage().data_ptr():
            return False
        offset += x.shape[1] * x.stride(1)
    return True


def _check_table(q: Mapping, kv: Mapping, sees: Mapping, log_weight: Mapping) -> None:
    for name, (k, v) in kv.items():
        check_floats(f"The keys {name!r}", k, "[B, K, H, D]")
        check_floats(f"The values {name!r}", v, "[B, K, H, Dv]")
        if k.shape[:3] != v.shape[:3]:
            raise InputError(
                f"The keys {name!r} are {list(k.shape)}, the values {list(v.shape)}; give both one batch, number of "
                "keys and heads."
            )
    if not isinstance(sees, Mapping):
        raise InputError(f"sees is {shown(sees)}; give a mapping from each group of queries to the keys that it sees.")
    for name, query in q.items():
        check_floats(f"The queries {name!r}", query, "[B, S, H, D]")
        if name not in sees:
            raise InputError(f"The queries {name!r} have no row in the visibility table; add sees[{name!r}] = (...).")
        row = tuple(sees[name])
        unknown = [other for other in row if other not in kv]
        if unknown:
            raise InputError(f"sees[{name!r}] names {unknown}, which have no keys; name groups of kv: {list(kv)}.")
        if len(set(row)) != len(row):
            raise InputError(f"sees[{name!r}] = {row} names a group twice; for n copies, set its log_weight to ln(n).")
        for other in row:
            if (wrong := kv[other][0]).shape[::2] != query.shape[::2] or wrong.shape[3] != query.shape[3]:
                raise InputError(
                    f"The queries {name!r} are {list(query.shape)}, the keys {other!r} {list(wrong.shape)}; give both "
                    "one batch, number of heads and width."
                )
    for name, weight in log_weight.items():
        if name not in kv:
            raise InputError(f"log_weight names {name!r}, which has no keys; name groups of kv: {list(kv)}.")
        check_floats(f"log_weight[{name!r}]", weight)
        if weight.shape != kv[name][0].shape[:2]:
            raise InputError(
                f"log_weight[{name!r}] has shape {tuple(weight.shape)}; give one value per key, "
                f"{tuple(kv[name][0].shape[:2])}."
            )


def _attend_group(query: Tensor, kv: Mapping, row: Sequence[Group], log_weight: Mapping, attend: Attend) -> Tensor:
    row = [name for name in row if kv[name][0].shape[1] > 0]
    if not row or query.shape[1] == 0:
        width = next(iter(kv.values()))[1].shape[-1] if kv else query.shape[-1]
        return query.new_zeros(*query.shape[:-1], width)
    k, v = (joined([kv[name][i] for name in row]) for i in (0, 1))
    weights = [name for name in row if name in log_weight]
    if not weights:
        return attend(query, k, v, None)
    # Attention needs the mask in the dtype of the queries: below fp32, a log-weight is as coarse as the logits are.
    bias = torch.cat(
        [
            log_weight[name].to(query.dtype) if name in log_weight else query.new_zeros(kv[name][0].shape[:2])
            for name in row
        ],
        dim=1,
    )
    if len(weights) < len(row):  # an unweighted key is always visible
        return attend(query, k, v, bias[:, None, None, :])
    no_key = (bias == -torch.inf).all(dim=1)
    bias = bias.masked_fill(no_key[:, None], 0.0)  # avoids NaN, in the gradients too
    return attend(query, k, v, bias[:, None, None, :]).masked_fill(no_key[:, None, None, None], 0.0)


def _check_routes(q: Mapping, kv: Mapping, routes: Mapping) -> None:
    for (name, other), route in routes.items():
        if name not in q or other not in kv:
            raise InputError(f"A route leads from {name!r} to {other!r}, which are no groups of q and kv.")
        (batch, queries, heads), keys = q[name].shape[:3], kv[other][0].shape[1]
        if route.shape[:3] != (batch, heads, queries) or not route.shape[3] or keys % route.shape[3]:
            raise InputError(
                f"The route from {name!r} to {other!r} is {list(route.shape)}; give [{batch}, {heads}, {queries}, "
                f"runs], where {keys} keys are so many runs of equal length."
            )


def _attend_routed(
    query: Tensor, kv: Mapping, row: Sequence[Group], log_weight: Mapping, attend: Attend, routes: Mapping
) -> Tensor:
    """As `_attend_group`, in parts of the queries, whose masks have few logits at a time."""
    k, v = (joined([kv[name][i] for name in row]) for i in (0, 1))
    batch, queries, heads = query.shape[:3]
    parts, size = [], max(1, MAX_LOGITS // (batch * heads * k.shape[1]))
    for start in range(0, queries, size):
        part = query[:, start : start + size]
        masks = []
        for name in row:
            keys = kv[name][0].shape[1]
            mask = part.new_zeros(batch, heads, part.shape[1], keys)
            if name in log_weight:
                mask = mask + log_weight[name].to(mask)[:, None, None]
            if name in routes:
                seen = routes[name][:, :, start : start + size]
                mask = mask.masked_fill(~seen.repeat_interleave(keys // seen.shape[3], dim=3), -torch.inf)
            masks.append(mask)
        mask = torch.cat(masks, dim=3)
        no_key = (mask == -torch.inf).all(dim=3, keepdim=True)
        out = attend(part, k, v, mask.masked_fill(no_key, 0.0))  # avoids NaN, in the gradients too
        parts.append(out.masked_fill(no_key.transpose(1, 2), 0.0))
    return torch.cat(parts, dim=1)
