"""`grouped_attention`: attention from groups of queries to groups of keys, without a mask over all tokens.

A visibility table replaces the mask: each group of queries is one attention call over the keys that are visible to it,
so any attention backend can be used and no logits are computed only to be masked out. A key may carry a *log-weight*,
which is added to its logit: ln(n) stands for n copies of the key, ln(score) weights it by relevance, −inf hides it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.checks import check_floats, shown
from memkit.errors import InputError

Group = TypeVar("Group", bound=Hashable)
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
    return {name: _attend_group(query, kv, sees[name], log_weight, attend) for name, query in q.items()}


def attention_share(
    q: Mapping[Group, Float[Tensor, "batch _ heads dim"]],
    kv: Mapping[Group, tuple[Float[Tensor, "batch _ heads dim"], Float[Tensor, "batch _ heads vdim"]]],
    sees: Mapping[Group, Sequence[Group]],
    group: Group,
    log_weight: Mapping[Group, Float[Tensor, "batch _"]] | None = None,
) -> dict[Group, Float[Tensor, "batch _ heads"]]:
    """The share of each query's attention, in [0, 1], that falls on the keys of ``group``.

    Computed as the attention output for values that are 1 in that group and 0 elsewhere, so no attention matrix is
    built.
    """
    marked = {
        name: (k, torch.full_like(k, 1.0 if name == group else 0.0, dtype=torch.float32)) for name, (k, _) in kv.items()
    }
    marked = {name: (k.float(), v) for name, (k, v) in marked.items()}
    out = grouped_attention({name: x.float() for name, x in q.items()}, marked, sees, log_weight)
    return {name: x[..., 0] for name, x in out.items()}


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
    k = kv[row[0]][0] if len(row) == 1 else torch.cat([kv[name][0] for name in row], dim=1)
    v = kv[row[0]][1] if len(row) == 1 else torch.cat([kv[name][1] for name in row], dim=1)
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
