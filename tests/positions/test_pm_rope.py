"""PM-RoPE and PRoPE: against dense references by hand, their invariances, and composed with a cache and memory."""

import itertools
import math
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from hypothesis import given, settings
from hypothesis import strategies as st

from memkit.backbones import PRESETS
from memkit.backbones.wan_attention import modulate, project_kv
from memkit.cameras import CameraPath, Cameras
from memkit.errors import InputError, MemkitError
from memkit.injectors import KVCache, SelfAttentionConcat, frame_bytes
from memkit.memory import Memory
from memkit.positions import PMRoPE, PMRoPEConfig, PRoPE
from tests.helpers.random_wan import SMALL, random_transformer

HEADS, DIM, TOKENS = SMALL["num_attention_heads"], SMALL["attention_head_dim"], 4
SIZES = (SMALL["num_layers"], HEADS, DIM)
TIGHT = {"rtol": 0, "atol": 1e-5}


@pytest.fixture
def model():
    return random_transformer()


def seeded(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rotations(*shape, seed=0):
    q = torch.linalg.qr(seeded(*shape, 3, 3, seed=seed, dtype=torch.float64)).Q
    return q * torch.linalg.det(q)[..., None, None]


def cameras(frames, batch=2, seed=3, dtype=torch.float64):
    c2w = torch.eye(4, dtype=torch.float64).repeat(batch, frames, 1, 1)
    c2w[..., :3, :3] = rotations(batch, frames, seed=seed)
    c2w[..., :3, 3] = 3 * seeded(batch, frames, 3, seed=seed + 1, dtype=torch.float64) + 7
    focal = seeded(batch, frames, 2, seed=seed + 2, dtype=torch.float64).abs() + 0.5
    return Cameras(c2w.to(dtype), torch.cat([focal, torch.full_like(focal, 0.4)], -1).to(dtype))


def moved(cams, turn=None, shift=None, scale=1.0):
    """The same cameras in another world."""
    world = torch.eye(4, dtype=torch.float64)
    world[:3, :3] = torch.eye(3) if turn is None else turn
    world[:3, 3] = torch.zeros(3) if shift is None else shift
    c2w = cams.c2w.clone()
    c2w[..., :3, 3] *= scale
    return Cameras(world @ c2w, cams.intrinsics)


def raw(cams):
    """A path of poses as they are, not of the first camera."""
    return CameraPath(cams.c2w, cams.intrinsics[..., :2])


def latents(frames, batch=2, seed=1):
    return seeded(batch, 16, frames, 4, 4, seed=seed)


def run(model, x):
    text = seeded(len(x), 6, SMALL["text_dim"], seed=9).to(x.dtype)
    return model(x, torch.tensor([700.0, 150.0])[: len(x)], text, return_dict=False)[0]


def trained(mode="full"):
    """Positions with parameters that matter."""
    pm = PMRoPE(PMRoPEConfig(*SIZES, mode))
    for i, parameter in enumerate(pm.parameters()):
        parameter.data = 0.15 * seeded(*parameter.shape, seed=20 + i)
    return pm


# -- the reference -----------------------------------------------------------------------------------------------------


def by_hand(cams):
    """Vectors [B,F,14] and projections [B,F,4,4] from the definition, clip by clip, with matrix inverses."""
    vectors, projections = [], []
    for c2w, intrinsics in zip(cams.c2w.double(), cams.intrinsics.double(), strict=True):
        fx, fy = intrinsics[:, 0], intrinsics[:, 1]
        pose = torch.linalg.inv(c2w[0]) @ c2w
        place = pose[:, :3, 3] - pose[:, :3, 3].mean(0)
        pose[:, :3, 3] = place / max(float(place.norm(dim=1).max()), 0.01)
        k = torch.diag_embed(torch.stack([fx, fy, torch.ones_like(fx), torch.ones_like(fx)], -1))
        logs = torch.stack([fx.log(), fy.log()], 1)
        vectors.append(torch.cat([pose[:, :3, 3], pose[:, :3, :3].reshape(-1, 9), logs], 1))
        projections.append(k @ torch.linalg.inv(pose))
    return torch.stack(vectors), torch.stack(projections)


class Dense(WanAttnProcessor):
    """Self-attention by its definition in float64: one mask, complex rotation, matrices over the whole head."""

    def __init__(self, cams, positions, allowed, layer=None):
        super().__init__()
        side = 2 * (DIM // 6)
        grid = torch.meshgrid(torch.tensor(positions), torch.arange(2), torch.arange(2), indexing="ij")
        parts = [
            p.reshape(-1, 1).double() * 10000.0 ** (-torch.arange(0, d, 2).double() / d)
            for p, d in zip(grid, (DIM - 2 * side, side, side), strict=True)
        ]
        vectors, p = (x.repeat_interleave(TOKENS, 1) for x in by_hand(cams))
        angle = torch.cat(parts, 1)[None]
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
        q, k = (
            torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * self.turn).flatten(-2) for x in (q, k)
        )
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
        if self.layer is None:
            return attn.to_out[0](times(p, y).flatten(2).float())
        out = attn.to_out[0](y.flatten(2).float())
        return out if self.layer.output is None else out + self.layer.output(times(p, y).flatten(2).float())


def dense(x, cams, chunks, layers, tokens=None):
    """The whole sequence in one forward; a chunk sees those up to itself, and memory."""
    positions = [p for chunk in chunks for p in chunk]
    number = torch.tensor([i for i, chunk in enumerate(chunks) for _ in chunk])
    model = random_transformer()
    for block, layer in zip(model.blocks, layers, strict=True):
        block.attn1.set_processor(Dense(cams, positions, number[:, None] >= number[None], layer))
        if tokens is not None:

            def remember(block, args):
                mine = modulate(block, tokens.expand(len(x), -1, -1), args[2])
                block.attn1.processor.memory = project_kv(block.attn1, mine)

            block.register_forward_pre_hook(remember)
    with torch.no_grad():
        return run(model, x)


@pytest.mark.parametrize("kind", ["phase", "full", "prope"])
def test_equals_a_dense_reference_with_cameras_of_their_own_in_each_sample(model, kind):
    x, cams = latents(5), cameras(5, dtype=torch.float32)
    positions = PRoPE() if kind == "prope" else trained(kind)
    with torch.no_grad(), positions.attach(model) as posed, posed.chunk(CameraPath.of(cams)):
        out = run(model, x)
    layers = [None] * 3 if kind == "prope" else positions.layers
    torch.testing.assert_close(out, dense(x, cams, [range(5)], layers), **TIGHT)
    still = Cameras(cams.c2w[:1, :1].expand(2, 5, 4, 4), cams.intrinsics[:1, :1].expand(2, 5, 4))
    assert (out - dense(x, still, [range(5)], layers)).abs().max() > 1e-2  # the cameras matter


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_streaming_with_a_cache_and_memory_equals_the_full_masked_sequence_in_any_order(model, order):
    chunks, x = [[0, 1], [2, 3], [40, 41]], latents(6)
    cams, tokens, pm = cameras(6, dtype=torch.float32), seeded(1, 3, HEADS * DIM, seed=4), trained()
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


def test_prope_streams_too(model):
    chunks, x, cams = [[0, 1], [2, 3]], latents(4), cameras(4, dtype=torch.float32)
    cache, path, prope, outs = KVCache(64 * frame_bytes(model, 4, 4, 2)), CameraPath.of(cams), PRoPE(), []
    with cache.attach(model) as cached, prope.attach(model) as posed, torch.no_grad():
        for chunk in chunks:
            with cached.chunk(chunk, write=True), posed.chunk(path.frames(chunk)):
                outs.append(run(model, x[:, :, chunk]))
    torch.testing.assert_close(torch.cat(outs, 2), dense(x, cams, chunks, [None] * 3), **TIGHT)


# -- the model it is attached to ---------------------------------------------------------------------------------------


def assert_untouched(model):
    assert all(type(block.attn1.processor) is WanAttnProcessor for block in model.blocks)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mode", ["off", "phase", "full"])
def test_at_the_start_it_is_the_backbone_to_the_bit(mode, dtype):
    model, x = random_transformer().to(dtype), latents(3).to(dtype)
    pm = PMRoPE(PMRoPEConfig.of(model, mode))
    with torch.no_grad(), pm.attach(model) as posed, posed.chunk(CameraPath.of(cameras(3))):
        out = run(model, x)
        assert torch.equal(out, run(random_transformer().to(dtype), x)) and out.isfinite().all()


def test_detached_it_leaves_nothing_behind(model):
    keys, path = list(model.state_dict()), CameraPath.of(cameras(3))
    with torch.no_grad():
        base = run(model, latents(3))
        for positions in (trained(), PRoPE()):
            with positions.attach(model) as posed, posed.chunk(path):
                assert not torch.allclose(run(model, latents(3)), base, atol=1e-3)
                assert list(model.state_dict()) == keys
            assert torch.equal(run(model, latents(3)), base)
            assert_untouched(model)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_of_training_moves_every_parameter_and_the_output(model, checkpointing):
    pm, path = PMRoPE(PMRoPEConfig(*SIZES)), CameraPath.of(cameras(3, dtype=torch.float32))
    model.requires_grad_(False)
    if checkpointing:
        model.train().enable_gradient_checkpointing()
    optimizer = torch.optim.SGD(pm.parameters(), lr=1.0)
    with pm.attach(model) as posed, posed.chunk(path):
        before = run(model, latents(3))
        before.pow(2).mean().backward()
        optimizer.step()
        assert all(parameter.abs().max() > 0 for parameter in pm.parameters())
        assert (run(model, latents(3)) - before).abs().max() > 1e-4


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_block_that_is_run_again_has_its_own_cameras_whatever_chunk_is_open(model, reentrant):
    def gradients(pm, later, checkpointing):
        other = random_transformer().train()
        other.load_state_dict(model.state_dict())
        if checkpointing:
            other.enable_gradient_checkpointing(partial(torch.utils.checkpoint.checkpoint, use_reentrant=reentrant))
        x = latents(3).requires_grad_()
        pm.zero_grad()
        with pm.attach(other) as posed:
            with posed.chunk(CameraPath.of(cameras(3, dtype=torch.float32))):
                loss = run(other, x).sum()
            with nullcontext() if later is None else posed.chunk(later):
                loss.backward()
        return [x.grad, *(parameter.grad.clone() for parameter in pm.parameters())]

    pm, later = trained(), CameraPath.of(cameras(3, seed=30, dtype=torch.float32))
    want = gradients(pm, None, checkpointing=False)
    for chunk in (None, later):
        for a, b in zip(want, gradients(pm, chunk, checkpointing=True), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


# -- what scores know --------------------------------------------------------------------------------------------------


def layer_of(positions, model):
    with positions.attach(model):
        return model.blocks[1].attn1.processor.positioning


def inputs(frames, start=0):
    """q, k, v of one token a frame in float64, and tables of frames at start, start + 1, … from the definition."""
    q, k, v = seeded(3, 1, frames, HEADS, DIM, seed=7, dtype=torch.float64)
    angle = torch.arange(start, start + frames).double()[:, None] * 10000.0 ** (-torch.arange(12).double() / 12)
    angle = angle.repeat_interleave(2, 1)[None, :, None]
    return q, k, v, (angle.cos(), angle.sin())


def scores_and_values(positions, model, path, start=0):
    q, k, v = layer_of(positions, model).enter(*inputs(len(path), start), path)
    return torch.einsum("bqhd,bkhd->bhqk", q, k), v


def largest(a, b):
    return float((a - b).detach().abs().max())


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.integers(-200, 200))
def test_scores_are_invariant_to_translation_and_time_shift_but_to_rotation_only_in_first_frame_poses(seed, start):
    model, cams = random_transformer(), cameras(5, batch=1, seed=seed)
    turn, shift = rotations(seed=seed + 50), 10 * seeded(3, seed=seed, dtype=torch.float64)
    pm = trained().double()
    here, values = scores_and_values(pm, model, raw(cams))
    assert largest(scores_and_values(pm, model, raw(moved(cams, shift=shift)))[0], here) < 1e-12
    assert largest(scores_and_values(pm, model, raw(cams), start)[0], here) < 1e-12
    assert largest(scores_and_values(pm, model, raw(moved(cams, turn=turn)))[0], here) > 1e-3
    first, values = scores_and_values(pm, model, CameraPath.of(cams))
    again = scores_and_values(pm, model, CameraPath.of(moved(cams, turn, shift, scale=5.0)))
    assert largest(again[0], first) < 1e-12 and largest(again[1], values) < 1e-12


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_prope_is_invariant_to_any_common_world_transform(seed):
    model, cams = random_transformer().double(), cameras(5, batch=1, seed=seed)

    def output(path):
        layer = layer_of(PRoPE(), model)
        q, k, v = layer.enter(*inputs(5), path)
        weights = (torch.einsum("bqhd,bkhd->bhqk", q, k) / 100).softmax(-1)
        return layer.leave(model.blocks[1].attn1, torch.einsum("bhqk,bkhd->bqhd", weights, v), path)

    world = {"turn": rotations(seed=seed + 50), "shift": 10 * seeded(3, seed=seed, dtype=torch.float64)}
    here = output(raw(cams))
    assert largest(output(raw(moved(cams, **world))), here) < 1e-10
    assert largest(output(raw(cameras(5, batch=1, seed=seed + 9))), here) > 1e-3


# -- paths -------------------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(0, 1000), st.sampled_from([torch.float32, torch.float64]))
def test_a_path_is_that_of_the_definition(frames, seed, dtype):
    cams = cameras(frames, seed=seed, dtype=dtype)
    path, (vectors, projections) = CameraPath.of(cams), by_hand(cams)
    bound = {"rtol": 0, "atol": 1e-12 if dtype == torch.float64 else 1e-5}
    torch.testing.assert_close(path.vectors.double(), vectors, **bound)
    torch.testing.assert_close(path.projection.double(), projections, **bound)
    identity = torch.eye(4, dtype=torch.float64).expand(2, frames, 4, 4)
    torch.testing.assert_close(path.projection.double() @ path.unprojection.double(), identity, **bound)
    assert path.vectors.dtype == path.projection.dtype == path.unprojection.dtype == dtype


def test_a_chunk_takes_rows_of_the_clip_and_is_not_normalised_again():
    cams = cameras(6)
    path = CameraPath.of(cams)
    chunk = path.frames([4, 3, 4])
    assert torch.equal(chunk.vectors, path.vectors[:, [4, 3, 4]])
    assert torch.equal(chunk.projection, path.projection[:, [4, 3, 4]])
    own = CameraPath.of(Cameras(cams.c2w[:, [4, 3, 4]], cams.intrinsics[:, [4, 3, 4]]))
    assert not torch.allclose(chunk.vectors, own.vectors)


def test_a_trembling_camera_does_not_travel_and_unknown_focal_lengths_are_zeros():
    cams = cameras(4, batch=1)
    cams.c2w[..., :3, 3] *= 1e-6
    path = CameraPath.of(Cameras(cams.c2w[0], cams.intrinsics[0] * 0))
    assert 0 < path.vectors[..., :3].abs().max() < 1e-2
    assert (path.vectors[..., 12:] == 0).all()
    torch.testing.assert_close(path.projection, torch.linalg.inv(path.c2w))


# -- as a module -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("preset", "million"), [("wan2.1-t2v-1.3b", 141.6), ("wan2.2-ti2v-5b", 566.4)])
def test_added_parameters_at_the_published_sizes(preset, million):
    with torch.device("meta"):
        config = PMRoPEConfig.of(WanTransformer3DModel(**PRESETS[preset]().transformer))
        counts = {
            mode: sum(p.numel() for p in PMRoPE(PMRoPEConfig(config.layers, config.heads, 128, mode)).parameters())
            for mode in ("off", "phase", "full")
        }
    assert math.floor(counts["full"] / 1e5) / 10 == million
    assert (counts["off"], counts["phase"]) == (0, 30 * 7 * 128)


def test_it_survives_meta_construction_and_zeroing_again(model):
    with torch.device("meta"):
        pm = PMRoPE(PMRoPEConfig(*SIZES))
    pm = pm.to_empty(device="cpu")
    for how in ("whole", "each"):
        for parameter in pm.parameters():
            parameter.data.fill_(1.0)
        if how == "whole":
            pm.reset_parameters()
        else:  # as FSDP does
            for module in pm.modules():
                if list(module.parameters(recurse=False)):
                    module.reset_parameters()
        assert all((parameter == 0).all() for parameter in pm.parameters())
    with torch.no_grad(), pm.attach(model) as posed, posed.chunk(CameraPath.of(cameras(3))):
        assert torch.equal(run(model, latents(3)), run(random_transformer(), latents(3)))


@pytest.mark.parametrize("mode", ["off", "phase", "full"])
def test_saved_and_loaded_it_is_the_same(model, tmp_path, mode):
    pm, outs = trained(mode), []
    assert sorted(p.name for p in pm.save_pretrained(tmp_path).iterdir()) == ["config.json", "model.safetensors"]
    again = PMRoPE.from_pretrained(tmp_path)
    assert again.config == pm.config
    for positions in (pm, again):
        with torch.no_grad(), positions.attach(model) as posed, posed.chunk(CameraPath.of(cameras(3))):
            outs.append(run(model, latents(3)))
    assert torch.equal(*outs)


def test_wrong_use_is_named_and_leaves_the_model_alone(model):
    pm, path = trained(), CameraPath.of(cameras(3))
    with pytest.raises(InputError, match="each once"):
        pm.attach()
    with pytest.raises(InputError, match="each once"):
        PRoPE().attach(model, model)
    with pytest.raises(InputError, match="layers=2"):
        PMRoPE(PMRoPEConfig(2, HEADS, DIM)).attach(model)
    with pytest.raises(InputError, match="blocks of 8"):
        PRoPE().attach(random_transformer(attention_head_dim=12))
    with pytest.raises(InputError, match="blocks of 4"):
        PMRoPEConfig(head_dim=6)
    with pytest.raises(InputError, match="mode = 'both'"):
        PMRoPEConfig(mode="both")
    with torch.no_grad(), pm.attach(model) as posed:
        with pytest.raises(InputError, match="attached already; detach that"):
            PRoPE().attach(random_transformer(1), model)
        with pytest.raises(MemkitError, match="camera positions ran outside a chunk"):
            run(model, latents(3))
        with posed.chunk(path):
            with pytest.raises(InputError, match="cameras of 3 frames, the latents have 6"):
                run(model, latents(6))
            with pytest.raises(InputError, match="of 2 clips"):
                run(model, latents(3, batch=1))
    assert_untouched(model)


def test_cameras_that_are_none_are_refused():
    good = cameras(3)
    for rows in ([], [3], [-1]):
        with pytest.raises(InputError, match="frames 0 to 2"):
            CameraPath.of(good).frames(rows)
    for change in (2.0, -1.0, math.nan):
        bad = good.c2w.clone()
        bad[1, 2, 0, :3] *= change
        with pytest.raises(InputError, match=r"\[1, 2\]"):
            CameraPath.of(Cameras(bad, good.intrinsics))
    with pytest.raises(InputError, match="Focal"):
        CameraPath.of(Cameras(good.c2w, -good.intrinsics))
    with pytest.raises(InputError, match="not \\[\\]"):
        CameraPath.of(Cameras(good.c2w[0, 0], good.intrinsics[0, 0]))
