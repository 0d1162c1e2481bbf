"""A small QueryLayers, and the dense reference of its visibility table."""

from __future__ import annotations

import torch
from torch import Tensor

from memkit.backbones.rotary import rotary_at, rotate
from memkit.injectors import QueryLayers, QueryLayersConfig

# queries differ from the prediction in content and timestep, so that a test can change one of them alone
CONFIG = QueryLayersConfig(dim=48, blocks=3, layers=2, query="noise", query_time="clean")
FRAMES, PAST = 2, 3


def layers(config: QueryLayersConfig = CONFIG, cameras: float = 0.0) -> QueryLayers:
    torch.manual_seed(3)
    query = QueryLayers(config)
    for parameter in query.cameras.parameters():
        torch.nn.init.normal_(parameter, std=cameras)
    return query


def run(
    model, query: QueryLayers, inputs: dict[str, Tensor], cameras: bool = False, **changes: Tensor | None
) -> Tensor:
    x = {**inputs, **changes}
    poses = {name: x[name] for name in ("cameras", "context_cameras")} if cameras else {}
    noise = x["q"] if query.config.query == "noise" else None
    with query.attach(model) as attached, attached.chunk(x["c"], noise, **poses):
        return model(x["p"], x["t"], x["text"], return_dict=False)[0]


def dense(model, query: QueryLayers, x: dict[str, Tensor], cameras: bool = False, of: str = "p") -> Tensor:
    """The model's output for the frames of P (or ``of`` Q), from one sequence of C, Q and P under a boolean mask.

    C is cut off after the last query layer.
    """
    config = query.config
    frames = {"c": x["c"], "q": x["q"] if config.query == "noise" else x["p"], "p": x["p"]}
    tokens = {name: model.patch_embedding(value).flatten(2).mT for name, value in frames.items()}
    counts = {name: value.shape[1] for name, value in tokens.items()}
    clean = {"c": config.context_time == "clean", "q": config.query_time == "clean", "p": False}
    times = torch.cat([x["t"][:, None].expand(-1, n) * (not clean[name]) for name, n in counts.items()], dim=1)
    _, temb, text, _ = model.condition_embedder(times.flatten(), x["text"], timestep_seq_len=times.shape[1])
    temb = temb.unflatten(2, (6, -1))
    places = {"c": range(-PAST, 0), "q": range(FRAMES), "p": range(FRAMES)}
    tables = [rotary_at(model.rope, at, 2, 2) for at in places.values()]
    cos, sin = (torch.cat([table[i] for table in tables], dim=1) for i in range(2))
    poses = torch.cat([x["context_cameras"], x["cameras"], x["cameras"]], dim=1)
    who = [name for name, n in counts.items() for _ in range(n)]
    hidden = torch.cat(list(tokens.values()), dim=1)
    for i, block in enumerate(model.blocks):
        if i == config.layers:  # C is gone
            keep = torch.tensor([name != "c" for name in who])
            hidden, temb, cos, sin = hidden[:, keep], temb[:, keep], cos[:, keep], sin[:, keep]
            who, poses = [name for name in who if name != "c"], poses[:, PAST:]
        sees = {
            "p": "pq",
            "q": ("p" if config.query_sees_prediction else "") + ("q" if config.query_sees_query else ""),
        }
        sees["q"] += "c" if i < config.layers else ""
        mask = torch.tensor([[b in sees.get(a, "") for b in who] for a in who])
        shift, scale, gate, c_shift, c_scale, c_gate = (block.scale_shift_table[None] + temb).unbind(2)
        h = block.norm1(hidden) * (1 + scale) + shift
        if cameras:
            h = h + query.cameras["exact"].layers[i](poses).repeat_interleave(4, dim=1)
        attn = block.attn1
        q, k, v = (
            f.unflatten(2, (2, -1)) for f in (attn.norm_q(attn.to_q(h)), attn.norm_k(attn.to_k(h)), attn.to_v(h))
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
        blind = ~mask.any(1)
        weights = scores.masked_fill(~mask, -torch.inf).masked_fill(blind[:, None], 0).softmax(-1)
        out = attn.to_out[0](torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2))
        out = out.masked_fill(torch.tensor([name == "c" for name in who])[:, None], 0)  # it passes unchanged
        hidden = hidden + out * gate
        hidden = hidden + block.attn2(block.norm2(hidden), text, None, None)
        hidden = hidden + block.ffn(block.norm3(hidden) * (1 + c_scale) + c_shift) * c_gate
    keep = torch.tensor([name == of for name in who])
    temb, _, _, _ = model.condition_embedder(x["t"] * (not clean[of]), x["text"])
    shift, scale = (model.scale_shift_table + temb[:, None]).chunk(2, dim=1)
    out = model.proj_out(model.norm_out(hidden[:, keep]) * (1 + scale) + shift)
    out = out.reshape(2, FRAMES, 2, 2, 1, 2, 2, -1).permute(0, 7, 1, 4, 2, 5, 3, 6)
    return out.flatten(6, 7).flatten(4, 5).flatten(2, 3)
