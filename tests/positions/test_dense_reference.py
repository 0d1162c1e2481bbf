"""PM-RoPE and PRoPE equal a dense reference, in one pass and streamed with a cache and memory tokens."""

import itertools
import math

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanAttnProcessor

from memkit.backbones.adapters.wan import WAN
from memkit.cameras import CameraPath, Cameras
from memkit.injectors import KVCache, SelfAttentionConcat, frame_bytes
from memkit.memory import Memory
from memkit.positions import PRoPE
from tests.helpers.dense_attention import rotary_angles
from tests.helpers.random_wan import random_transformer
from tests.positions.common import (
    DIM,
    HEADS,
    TIGHT,
    TOKENS,
    assert_untouched,
    cameras,
    latents,
    path_by_definition,
    random_pm_rope,
    run,
    seeded,
)


class DenseCameraAttention(WanAttnProcessor):
    """Self-attention with cameras by its definition in float64: one mask, complex rotation, head-sized matrices.

    ``layer`` is a layer of PMRoPE; without one, attention is that of PRoPE.
    """

    def __init__(self, cams, positions, allowed, layer=None):
        super().__init__()
        self.authors = layer == "authors"  # of PRoPE: values are rotated too, and the principal point is kept
        layer = None if self.authors else layer
        vectors, p = (x.repeat_interleave(TOKENS, 1) for x in path_by_definition(cams, self.authors))
        angle = rotary_angles(positions)[None]
        self.layer, self.memory = layer, None
        if layer is not None:
            angle = angle + vectors @ layer.phase.weight.detach().double().T
            self.p = torch.kron(torch.eye(DIM // 4).double(), p)
        else:  # PRoPE: the identity on even blocks
            odd = torch.diag((torch.arange(DIM // 4) % 2).double())
            even = torch.eye(DIM // 4).double() - odd
            self.p = torch.kron(odd, p) + torch.kron(even, torch.eye(4).double())
            angle = angle * even.diagonal().repeat_interleave(2)
        self.turn = torch.polar(torch.ones(()).double(), angle)[:, :, None]
        self.allowed = allowed.repeat_interleave(TOKENS, 0).repeat_interleave(TOKENS, 1)

    def __call__(self, attn, hidden, *_):
        q, k, v = attn.norm_q(attn.to_q(hidden)), attn.norm_k(attn.to_k(hidden)), attn.to_v(hidden)
        q, k, v = (x.unflatten(-1, (attn.heads, -1)).double() for x in (q, k, v))

        def turned(x, turn):
            return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * turn).flatten(-2)

        q, k, v = turned(q, self.turn), turned(k, self.turn), turned(v, self.turn) if self.authors else v
        p, inverse = self.p, torch.linalg.inv(self.p)

        def times(matrix, x):
            return torch.einsum("bsij,bshj->bshi", matrix, x)

        if self.layer is None:
            q, k, v = times(p.mT, q), times(inverse, k), times(inverse, v)
        elif self.layer.value is not None:
            v = v + self.layer.value(times(inverse, v).flatten(2).float()).unflatten(-1, v.shape[2:])
        allowed = self.allowed
        if self.memory is not None:
            k, v = (torch.cat([x, m.double()], 1) for x, m in zip((k, v), self.memory, strict=True))
            allowed = torch.cat([allowed, torch.ones(len(allowed), self.memory[0].shape[1], dtype=torch.bool)], 1)
        logits = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(DIM)
        y = torch.einsum("bhqk,bkhd->bqhd", logits.masked_fill(~allowed, -torch.inf).softmax(-1), v)
        y = turned(y, self.turn.conj()) if self.authors else y
        if self.layer is None:
            return attn.to_out[0](times(p, y).flatten(2).float())
        out = attn.to_out[0](y.flatten(2).float())
        return out if self.layer.output is None else out + self.layer.output(times(p, y).flatten(2).float())


def dense(x, cams, chunks, layers, tokens=None):
    """The whole sequence in one forward pass; a chunk sees itself, all chunks before it, and the memory tokens."""
    positions = [p for chunk in chunks for p in chunk]
    number = torch.tensor([i for i, chunk in enumerate(chunks) for _ in chunk])
    model = random_transformer()
    for block, layer in zip(model.blocks, layers, strict=True):
        block.attn1.set_processor(DenseCameraAttention(cams, positions, number[:, None] >= number[None], layer))
        if tokens is not None:

            def remember(block, args):
                mine = WAN.modulate(block, tokens.expand(len(x), -1, -1), args[2])
                block.attn1.processor.memory = WAN.project_kv(block.attn1, mine)

            block.register_forward_pre_hook(remember)
    with torch.no_grad():
        return run(model, x)


@pytest.mark.parametrize("kind", ["phase", "full", "prope", "authors"])
def test_equals_a_dense_reference_with_cameras_of_their_own_in_each_sample(model, kind):
    x, cams = latents(5), cameras(5, dtype=torch.float32)
    prope = {"prope": PRoPE(), "authors": PRoPE(rotate_values=True, principal_point=True)}
    positions = prope.get(kind) or random_pm_rope(kind)
    with torch.no_grad(), positions.attach(model) as posed, posed.chunk(CameraPath.of(cams)):
        out = run(model, x)
    layers = {"prope": [None] * 3, "authors": ["authors"] * 3}.get(kind) or positions.layers
    torch.testing.assert_close(out, dense(x, cams, [range(5)], layers), **TIGHT)
    still = Cameras(cams.c2w[:1, :1].expand(2, 5, 4, 4), cams.intrinsics[:1, :1].expand(2, 5, 4))
    assert (out - dense(x, still, [range(5)], layers)).abs().max() > 1e-2  # the cameras matter


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_streaming_with_a_cache_and_memory_equals_the_full_masked_sequence_in_any_order(model, order):
    chunks, x = [[0, 1], [2, 3], [40, 41]], latents(6)
    cams, tokens, pm = cameras(6, dtype=torch.float32), seeded(1, 3, HEADS * DIM, seed=4), random_pm_rope()
    cache, path = KVCache(64 * frame_bytes(model, 4, 4, 2)), CameraPath.of(cams)
    parts = [pm, cache, SelfAttentionConcat(Memory(tokens))]
    attached, outs = {i: parts[i].attach(model) for i in order}, []
    posed, cached = attached[0], attached[1]
    for i, chunk in enumerate(chunks):
        rows = [2 * i, 2 * i + 1]
        with torch.no_grad(), cached.chunk(chunk, write=True), posed.chunk(path.frames(rows)):
            outs.append(run(model, x[:, :, rows]))
    for attachment in attached.values():
        attachment.detach()
    torch.testing.assert_close(torch.cat(outs, 2), dense(x, cams, chunks, pm.layers, tokens), **TIGHT)
    assert_untouched(model)


@pytest.mark.parametrize("authors", [False, True])
def test_prope_streams_too(model, authors):
    chunks, x, cams = [[0, 1], [2, 3]], latents(4), cameras(4, dtype=torch.float32)
    prope = PRoPE(rotate_values=authors, principal_point=authors)
    cache, path, outs = KVCache(64 * frame_bytes(model, 4, 4, 2)), CameraPath.of(cams), []
    with cache.attach(model) as cached, prope.attach(model) as posed, torch.no_grad():
        for chunk in chunks:
            with cached.chunk(chunk, write=True), posed.chunk(path.frames(chunk)):
                outs.append(run(model, x[:, :, chunk]))
    torch.testing.assert_close(
        torch.cat(outs, 2), dense(x, cams, chunks, ["authors" if authors else None] * 3), **TIGHT
    )
