"""The tokens of packed frames against a dense reference that builds each token from its definition."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from memkit.backbones.rotary import rotary_at, rotate
from memkit.injectors import FrameContext, FrameContextConfig
from tests.helpers.differ import differ
from tests.injectors.frame_context.common import (
    CELLS,
    CLOSE,
    CONFIG,
    FRAMES,
    HEIGHT,
    PACKED,
    PAST,
    WIDTH,
    call,
    context,
    poses,
    run,
)


def groups_of(config: FrameContextConfig) -> list[tuple[int, list[int]]]:
    """The groups of six frames, written out: scale and frames of each."""
    groups = [(4, [0, 0, 1, 2]), (2, [3, 4]), (1, [5])] if config.packing else [(1, [i]) for i in range(PAST)]
    return [(1, [0]), (4, [1, 1, 1, 2]), *groups[1:]] if config.keep_start else groups


def dense(model, frames: FrameContext, x: dict[str, Tensor], at: list[int], past: Tensor, cameras: bool) -> Tensor:
    """Builds each token from its definition, and attends with a plain softmax over all of them."""
    tokens, cos, sin, times, who = [], [], [], [], []
    tables = [rotary_at(model.rope, [p], HEIGHT, WIDTH) for p in [*at, *range(FRAMES)]]
    for scale, members in groups_of(frames.config):
        conv = frames.packers[str(scale)] if frames.config.packing else model.patch_embedding
        for i in range(0, HEIGHT, scale):
            for j in range(0, WIDTH, scale):
                rows = [min(n, 2 * HEIGHT - 1) for n in range(2 * i, 2 * (i + scale))]
                columns = [min(n, 2 * WIDTH - 1) for n in range(2 * j, 2 * (j + scale))]
                window = x["c"][:, :, members][:, :, :, rows][..., columns]
                tokens.append(torch.einsum("bcthw,dcthw->bd", window, conv.weight) + conv.bias)
                cells = [
                    min(i + a, HEIGHT - 1) * WIDTH + min(j + b, WIDTH - 1) for a in range(scale) for b in range(scale)
                ]
                for kind, table in ((cos, 0), (sin, 1)):
                    kind.append(torch.stack([tables[m][table][0, n, 0] for m in members for n in cells]).mean(0))
                times.append(past[:, members].mean(1))
                who.append(members)
    own = model.patch_embedding(x["p"]).flatten(2).mT
    hidden = torch.cat([torch.stack(tokens, dim=1), own], dim=1)
    cos, sin = (
        torch.cat([torch.stack(kind), *(t[i][0, :, 0] for t in tables[PAST:])])[None, :, None]
        for i, kind in enumerate((cos, sin))
    )
    times = torch.cat([torch.stack(times, dim=1), x["t"][:, None].expand(-1, own.shape[1])], dim=1)
    temb, modulation, text, _ = model.condition_embedder(times.flatten(), x["text"], timestep_seq_len=times.shape[1])
    modulation = modulation.unflatten(2, (6, -1))
    for i, block in enumerate(model.blocks):
        shift, scale, gate, c_shift, c_scale, c_gate = (block.scale_shift_table[None] + modulation).unbind(2)
        h = block.norm1(hidden) * (1 + scale) + shift
        if cameras:
            layer = frames.cameras["exact"].layers[i]
            added = [layer(x["context_cameras"][:, members]).mean(1) for members in who]
            added += [layer(x["cameras"][:, n // CELLS]) for n in range(own.shape[1])]
            h = h + torch.stack(added, dim=1)
        attn = block.attn1
        q, k, v = (
            f.unflatten(2, (2, -1)) for f in (attn.norm_q(attn.to_q(h)), attn.norm_k(attn.to_k(h)), attn.to_v(h))
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        weights = (torch.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5).softmax(-1)
        hidden = hidden + attn.to_out[0](torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2)) * gate
        hidden = hidden + block.attn2(block.norm2(hidden), text, None, None)
        hidden = hidden + block.ffn(block.norm3(hidden) * (1 + c_scale) + c_shift) * c_gate
    shift, scale = (model.scale_shift_table[None] + temb[:, :, None]).unbind(2)
    out = model.proj_out(model.norm_out(hidden) * (1 + scale) + shift)[:, -own.shape[1] :]
    out = out.reshape(2, FRAMES, HEIGHT, WIDTH, 1, 2, 2, -1).permute(0, 7, 1, 4, 2, 5, 3, 6)
    return out.flatten(6, 7).flatten(4, 5).flatten(2, 3)


@pytest.mark.parametrize("cameras", [False, True])
@pytest.mark.parametrize("config", [CONFIG, PACKED, dataclasses.replace(PACKED, keep_start=True)])
@torch.no_grad()
def test_packed_tokens_positions_cameras_and_times_are_those_made_by_hand(model, inputs, config, cameras) -> None:
    frames, at = context(config, cameras=0.3), [-40, -3, 7, 1, -2, 2000]
    arguments = poses(inputs) if cameras else {}
    for past in (None, torch.rand(2, PAST) * 1000):
        output = run(model, frames, inputs, inputs["c"], context_positions=at, context_timesteps=past, **arguments)
        expected = dense(model, frames, inputs, at, torch.zeros(2, PAST) if past is None else past, cameras)
        torch.testing.assert_close(output, expected, **CLOSE)


@torch.no_grad()
def test_initialised_a_token_is_the_patch_embedding_of_the_average(model, inputs) -> None:
    frames = FrameContext(PACKED).initialise(model)
    video = torch.randn(1, 16, 4, 16, 8)
    constant = torch.randn(1, 16, 1, 1, 1).expand(1, 16, 4, 16, 16)
    alike = model.patch_embedding(constant)[:, :, :1, :1, :1]
    for scale in (1, 2, 4):
        conv = frames.packers[str(scale)]
        torch.testing.assert_close(conv(video), model.patch_embedding(torch.nn.functional.avg_pool3d(video, scale)))
        assert (conv(constant) - alike).abs().max() < 1e-4
    flat = FrameContext(dataclasses.replace(CONFIG, packing=((PAST, 1),))).initialise(model)
    assert torch.equal(run(model, flat, inputs, inputs["c"]), run(model, context(), inputs, inputs["c"]))


@torch.no_grad()
def test_a_start_frame_is_kept_as_it_is_where_all_else_is_packed(model, inputs) -> None:
    frames = FrameContext(dataclasses.replace(CONFIG, packing=((2, 2),), keep_start=True)).initialise(model)
    flat = context()
    output = run(model, frames, inputs, inputs["c"][:, :, :1])
    assert torch.equal(output, run(model, flat, inputs, inputs["c"][:, :, :1]))
    assert differ(output, run(model, frames, inputs, inputs["c"]), atol=1e-3)


@torch.no_grad()
def test_frames_beyond_the_packing_are_left_out_and_counted(model, inputs) -> None:
    frames = context(dataclasses.replace(PACKED, packing=((1, 1), (2, 2)), keep_start=True), cameras=0.3)
    times = torch.rand(1, PAST) * 1000
    kept = [0, 3, 4, 5]
    with frames.attach(model) as attached:
        chunk = attached.chunk(inputs["c"], context_timesteps=times, **poses(inputs))
        assert chunk.left_out == 2
        with chunk:
            output = call(model, inputs)
        moved = inputs["c"].clone()
        moved[:, :, 1:3] += 1.0
        with attached.chunk(moved, context_timesteps=times, **poses(inputs)):
            assert torch.equal(call(model, inputs), output)
        less = {"cameras": inputs["cameras"], "context_cameras": inputs["context_cameras"][:, kept]}
        at = {"context_positions": [-6, -3, -2, -1], "context_timesteps": times[:, kept]}
        with attached.chunk(inputs["c"][:, :, kept], **less, **at) as chunk:
            assert torch.equal(call(model, inputs), output) and chunk.left_out == 0
