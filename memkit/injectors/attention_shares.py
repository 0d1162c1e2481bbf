"""Exact shares of attention per frame, computed without the whole attention matrix."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.backbones.base import Table

MAX_LOGITS = 2**26
"""Maximum number of logits in memory at a time: 256 MiB in fp32."""


@torch.no_grad()
def frame_shares(
    table: Table, query: str, context: str, frames: int, max_logits: int = MAX_LOGITS
) -> Float[Tensor, "batch frames"]:
    """Share of the attention of group ``query`` on each frame of ``context``, out of all keys that are visible to it.

    Computed in fp32, a few queries at a time, so that at most ``max_logits`` logits are in memory (but at least those
    of one token). The tokens of ``context`` are ``frames`` runs of equal length. Without any visible key, shares are 0.
    """
    q = table.q[query]
    batch, tokens, heads, dim = q.shape
    names = [name for name in table.sees[query] if table.kv[name][0].shape[1] > 0]
    total = torch.zeros(batch, frames, device=q.device)
    if frames == 0 or tokens == 0 or context not in names:
        return total
    names.sort(key=lambda name: name != context)  # puts the context first
    keys = {name: table.kv[name][0].float().permute(0, 2, 3, 1) for name in names}
    longest = max(k.shape[-1] for k in keys.values())
    for part in (q.float() * dim**-0.5).transpose(1, 2).split(max(1, max_logits // (batch * heads * longest)), dim=2):
        masses = []
        for name, k in keys.items():
            logits = part @ k
            if name in table.log_weight:
                logits = logits + table.log_weight[name].float()[:, None, None]
            masses.append(logits.unflatten(-1, (frames if name == context else 1, -1)).logsumexp(-1))
        mass = torch.cat(masses, dim=-1)
        no_key = (mass == -torch.inf).all(-1, keepdim=True)
        share = mass.softmax(-1).masked_fill(no_key, 0.0)
        total += share[..., :frames].sum((1, 2))
    return total / (tokens * heads)
