"""Echo-Memory's checkpoints with random weights in their exact layouts, and its forward, written out in float64."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.helpers import original_wan

LAYERS, DIM, HEADS = 5, 48, 2  # blocks 0 and 4 have a recurrence


def added_state(dim: int = DIM, layers: int = LAYERS, recurrence: bool = False, seed: int = 1) -> dict[str, Tensor]:
    """What a checkpoint holds beside the weights of a stock Wan."""
    generator, state = torch.Generator().manual_seed(seed), {}

    def linear(name: str, out: int, inp: int) -> None:
        state[f"{name}.weight"] = original_wan.normal(out, inp, generator=generator) / inp**0.5
        state[f"{name}.bias"] = original_wan.normal(out, generator=generator) * 0.1

    def vector(name: str, size: int) -> None:
        state[name] = original_wan.normal(size, generator=generator)

    for i in range(layers):
        linear(f"blocks.{i}.action_mlp.proj", dim, 12)
        for part in "qkvo":
            linear(f"blocks.{i}.self_attn_with_action.{part}", dim, dim)
        for norm in ("norm_q", "norm_k"):
            vector(f"blocks.{i}.self_attn_with_action.{norm}.weight", dim)
        if recurrence and i % 4 == 0:
            linear(name := f"blocks.{i}.block_wise_ssm.in_proj", 2 * dim, dim)
            linear(name.replace("in_proj", "out_proj"), dim, dim)
            for rest in ("decay_logit", "norm.weight", "norm.bias"):
                vector(name.replace("in_proj", rest), dim)
            vector(name.replace("in_proj", "residual_logit"), 1)
    return state


def checkpoint(row: str, **sizes: int) -> dict[str, Tensor]:
    """A whole checkpoint of a row."""
    stock = original_wan.random_state(**{"dim": DIM, "heads": HEADS, "layers": LAYERS, **sizes})
    few = {name: sizes[name] for name in ("dim", "layers") if name in sizes}
    return {**stock, **added_state(**few, recurrence=row == "block_wise_ssm_causal_v2")}


def forward(
    state: dict[str, Tensor],
    row: str,
    latents: Tensor,
    timestep: Tensor,
    text: Tensor,
    poses: Tensor,
    context: Tensor | None = None,
    context_poses: Tensor | None = None,
) -> Tensor:
    """Velocity of the target frames; ``context`` [B,C,K,H,W] is the oldest first. Written by the descriptions alone."""
    w, frames, k = {name: x.double() for name, x in state.items()}, latents.shape[2], 0
    if context is not None:
        assert context_poses is not None
        if row == "framepack_len_r8":
            context, context_poses = pooled(context.double(), context_poses.double())
        k, prefix = context.shape[2], row == "block_wise_ssm_causal_v2"
        order = (lambda own, past: [past, own]) if prefix else (lambda own, past: [own, past])
        latents = torch.cat(order(latents.double(), context.double()), 2)
        poses = torch.cat(order(poses.double(), context_poses.double()), 1)
    first = -k if row == "block_wise_ssm_causal_v2" else 0

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def embedded(x: Tensor) -> Tensor:
        if row != "framepack_len_r8" or not k:
            return x
        target = x[:, :, :frames].mean((2, 3, 4))
        scores = [F.cosine_similarity(target, x[:, :, frames + i].mean((2, 3)), dim=1) for i in range(k)]
        weights = k * torch.stack(scores, 1).softmax(1)
        return torch.cat([x[:, :, :frames], x[:, :, frames:] * weights[:, None, :, None, None]], 2)

    def before(i: int, x: Tensor) -> Tensor:
        b = f"blocks.{i}.self_attn_with_action"
        y = x + linear(f"blocks.{i}.action_mlp.proj", poses.double())[:, :, None]
        out = torch.empty_like(x)
        for s in range(x.shape[2]):  # each place alone
            q, key = (
                (z * torch.rsqrt(z.pow(2).mean(-1, keepdim=True) + 1e-6) * w[f"{b}.norm_{n}.weight"]).unflatten(
                    -1, (HEADS, -1)
                )
                for n, z in (("q", linear(f"{b}.q", y[:, :, s])), ("k", linear(f"{b}.k", y[:, :, s])))
            )
            v = linear(f"{b}.v", y[:, :, s]).unflatten(-1, (HEADS, -1))
            share = torch.softmax(torch.einsum("bqhd,bkhd->bhqk", q, key) / q.shape[-1] ** 0.5, -1)
            out[:, :, s] = linear(f"{b}.o", torch.einsum("bhqk,bkhd->bqhd", share, v).flatten(2))
        return x + out

    def between(i: int, x: Tensor) -> Tensor:
        b = f"blocks.{i}.block_wise_ssm"
        if f"{b}.decay_logit" not in w:
            return x
        n = F.layer_norm(x, x.shape[-1:], w[f"{b}.norm.weight"], w[f"{b}.norm.bias"], 1e-5)
        u, g = linear(f"{b}.in_proj", n).chunk(2, -1)
        a, h, ys = torch.sigmoid(w[f"{b}.decay_logit"]), torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            h = a * h + (1 - a) * u[:, t].tanh()
            ys.append(linear(f"{b}.out_proj", h * g[:, t].sigmoid()))
        return x + (0.1 + 0.1 * torch.sigmoid(w[f"{b}.residual_logit"])) * torch.stack(ys, 1)

    stock = {name: x for name, x in w.items() if name not in added_state(recurrence=True)}
    functions = {"first": first, "embedded": embedded, "before": before, "between": between}
    out = original_wan.forward(stock, latents, timestep, text, HEADS, **functions)
    return out[:, :, -frames:] if first else out[:, :, :frames]


def pooled(context: Tensor, poses: Tensor) -> tuple[Tensor, Tensor]:
    """The context of ``framepack_len_r8``: newest first, eight in one, three scales."""
    order = [*reversed(range(context.shape[2]))]
    order += [order[-1]] * (-len(order) % 8)
    latents, rows = [], []
    for start in range(0, len(order), 8):
        group = order[start : start + 8]
        mean = sum(context[:, :, i] for i in group) / 8
        rows.append(sum(poses[:, i] for i in group) / 8)
        coarse = [F.avg_pool2d(mean, s).repeat_interleave(s, -1).repeat_interleave(s, -2) for s in (2, 4)]
        latents.append(0.60 * mean + 0.25 * coarse[0] + 0.15 * coarse[1])
    return torch.stack(latents, 2), torch.stack(rows, 1)
