"""TeacherForcing: one forward of [clean | noisy] against a dense mask, and against streaming chunk by chunk."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from hypothesis import given, settings
from hypothesis import strategies as st

from memkit.cameras import CameraPath, Cameras
from memkit.encoders import MemoryGate
from memkit.errors import InputError, MemkitError
from memkit.frame_graph import FrameGraph, Node, StreamLayout
from memkit.injectors import KVCache, SelfAttentionConcat, TeacherForcing, frame_bytes, stream_cameras
from memkit.memory import Memory
from memkit.positions import PMRoPE, PMRoPEConfig
from tests.helpers.random_graphs import graphs
from tests.helpers.random_wan import SMALL, random_transformer

TOKENS = 4  # of a latent frame of 4×4
TIGHT = {"rtol": 0, "atol": 1e-5}
SIZES = (SMALL["num_layers"], SMALL["num_attention_heads"], SMALL["attention_head_dim"])


@pytest.fixture
def model():
    return random_transformer()


def seeded(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def clip(graph, batch=2, seed=1):
    """Latents, noise and the noise of memory."""
    return seeded(3, batch, 16, graph.num_frames, 4, 4, seed=seed)


def text(batch=2, chunks=None):
    return seeded(batch, *([] if chunks is None else [chunks]), 6, SMALL["text_dim"], seed=9)


def levels(graph, batch=2):
    """A noise level for each sample and chunk."""
    return torch.rand(batch, len(graph.nodes), generator=torch.Generator().manual_seed(5))


def forced(model, graph, latents, noise, memory_noise, prompt=None, batch=2):
    forcing = TeacherForcing()
    with forcing.attach(model) as teacher, teacher.chunk(graph) as step, torch.no_grad():
        return step.velocity(
            model, latents, noise, levels(graph, batch), text(batch) if prompt is None else prompt, memory_noise
        )


def spans(graph):
    """The frames of each chunk in a stream."""
    stops = list(itertools.accumulate(node.frames for node in graph.nodes))
    return [slice(stop - node.frames, stop) for node, stop in zip(graph.nodes, stops, strict=True)]


PLAIN = FrameGraph(tuple(Node(time=t, frames=2) for t in (0, 2, 4, 44)))


# -- one forward is the masked full sequence ---------------------------------------------------------------------------


class Dense(WanAttnProcessor):
    """Self-attention of the whole sequence by its definition: all logits in float64, one mask, complex rotation."""

    def __init__(self, graph):
        super().__init__()
        dim, side = SMALL["attention_head_dim"], 2 * (SMALL["attention_head_dim"] // 6)
        at = torch.tensor(graph.positions() * 2)
        grid = torch.meshgrid(at, torch.arange(2), torch.arange(2), indexing="ij")
        angles = [
            p.reshape(-1, 1).double() * 10000.0 ** (-torch.arange(0, d, 2).double() / d)
            for p, d in zip(grid, (dim - 2 * side, side, side), strict=True)
        ]
        self.turn = torch.polar(torch.ones(()).double(), torch.cat(angles, 1))[:, None]
        self.allowed = graph.visible(TOKENS)

    def __call__(self, attn, hidden, *_):
        q, k, v = attn.norm_q(attn.to_q(hidden)), attn.norm_k(attn.to_k(hidden)), attn.to_v(hidden)
        q, k, v = (x.unflatten(-1, (attn.heads, -1)).double() for x in (q, k, v))
        q, k = (
            torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * self.turn).flatten(-2) for x in (q, k)
        )
        logits = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[-1])
        weights = logits.masked_fill(~self.allowed, -torch.inf).softmax(-1)
        return attn.to_out[0](torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2).float())


def dense(graph, latents, noise, memory_noise, sigma):
    """The stock model on both streams at once, with its own per-token timesteps; levels are the graph's."""
    model, inputs, times = random_transformer(), [], []
    for block in model.blocks:
        block.attn1.set_processor(Dense(graph))
    for stream, eps in (("clean", memory_noise), ("noisy", noise)):
        level = torch.stack([getattr(graph.noise_levels(row), stream) for row in sigma.tolist()])
        at = level[:, None, :, None, None]
        inputs.append((1 - at) * latents + at * eps)
        times.append(torch.stack([getattr(graph.timesteps(row), stream) for row in sigma.tolist()]))
    timesteps = torch.cat(times, 1).repeat_interleave(TOKENS, 1)
    with torch.no_grad():
        out = model(torch.cat(inputs, 2), timesteps, text(len(latents)), return_dict=False)[0]
    return out[:, :, graph.num_frames :]


@settings(max_examples=25, deadline=None)
@given(graphs())
def test_any_graph_equals_one_dense_masked_forward(graph):
    parts = clip(graph)
    out = forced(random_transformer(), graph, *parts)
    torch.testing.assert_close(out, dense(graph, *parts, levels(graph)), **TIGHT)


def test_a_gap_is_seen(model):
    parts = clip(PLAIN)
    near = FrameGraph((*PLAIN.nodes[:3], replace(PLAIN.nodes[3], time=6)))
    a, b = (forced(model, graph, *parts) for graph in (PLAIN, near))
    assert torch.equal(a[:, :, :6], b[:, :, :6]) and (a - b)[:, :, 6:].abs().max() > 1e-3


# -- who sees whom -----------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(graphs(), st.data())
def test_no_chunk_sees_the_future_and_every_noisy_chunk_sees_itself(graph, data):
    i = data.draw(st.integers(0, len(graph.nodes) - 1))
    span, parts = spans(graph)[i], clip(graph)
    other = parts.clone()
    other[:, :, :, span.start] += 1.0  # one frame of it, in latents and all noise
    a, b = (forced(random_transformer(), graph, *x) for x in (parts, other))
    assert torch.equal(a[:, :, : span.start], b[:, :, : span.start])
    for frame in range(span.start, span.stop):
        assert not torch.equal(a[:, :, frame], b[:, :, frame])


@settings(max_examples=15, deadline=None)
@given(graphs(), st.data())
def test_clean_memory_reaches_the_chunks_that_see_it_and_no_dropped_one_does(graph, data):
    i = data.draw(st.integers(0, len(graph.nodes) - 1))
    model, forcing, outs = random_transformer(), TeacherForcing(), []
    with forcing.attach(model) as teacher, teacher.chunk(graph) as step, torch.no_grad():
        latents, noise, memory_noise = clip(graph)
        both, timesteps = step.streams(latents, noise, levels(graph), memory_noise)
        for shift in (0.0, 1.0):
            both[:, :, spans(graph)[i]] += shift  # of the clean stream alone
            outs.append(model(both, timesteps, text(), return_dict=False)[0])
    for j, span in enumerate(spans(graph)):
        same = torch.equal(outs[0][:, :, span], outs[1][:, :, span])
        assert same == (j <= i or graph.nodes[i].dropped)


# -- for the loss alone ------------------------------------------------------------------------------------------------


def carries_loss(graph):
    return not graph.given().all()


@settings(max_examples=15, deadline=None)
@given(graphs().filter(carries_loss))
def test_what_is_run_for_the_loss_gives_the_same_velocity_with_cameras_and_a_prompt_a_chunk(graph):
    graph = FrameGraph(tuple(replace(node, camera=node.camera or 0) for node in graph.nodes))
    model, pm, forcing, path, (latents, noise, memory_noise) = (
        random_transformer(),
        trained(),
        TeacherForcing(),
        cameras(60),
        clip(graph),
    )
    outs, prompts = [], text(chunks=len(graph.nodes))
    with pm.attach(model) as posed, forcing.attach(model) as teacher, torch.no_grad():
        for alone in (False, True):
            with teacher.chunk(graph, for_loss=alone) as step, posed.chunk(stream_cameras(graph, path, for_loss=alone)):
                outs.append(step.velocity(model, latents, noise, levels(graph), prompts, memory_noise))
    mask = graph.loss_mask()
    torch.testing.assert_close(outs[1][:, :, mask], outs[0][:, :, mask], **TIGHT)
    idle = [
        i for i, node in enumerate(graph.nodes) if node.role == "degraded" or node.conditioning_frames == node.frames
    ]
    assert all((outs[1][:, :, spans(graph)[i]] == 0).all() for i in idle)


@settings(max_examples=15, deadline=None)
@given(graphs().filter(carries_loss), st.data())
def test_all_that_is_run_for_the_loss_reaches_it(graph, data):
    layout, model, forcing = StreamLayout.for_loss(graph), random_transformer(), TeacherForcing()
    sizes = layout.groups()
    name = data.draw(st.sampled_from(list(sizes)))
    start = sum(list(sizes.values())[: list(sizes).index(name)])
    latents, noise, memory_noise = clip(graph)
    with forcing.attach(model) as teacher, teacher.chunk(graph, for_loss=True) as step, torch.no_grad():
        both, timesteps = step.streams(latents, noise, levels(graph), memory_noise)
        a = model(both, timesteps, text(), return_dict=False)[0]
        both[:, :, start : start + sizes[name]] += 1.0
        b = model(both, timesteps, text(), return_dict=False)[0]
    mask = graph.loss_mask()[layout.frames("x")]
    assert not torch.equal(a[:, :, mask], b[:, :, mask])


def test_the_gradients_of_the_loss_are_the_same(model):
    nodes = (
        Node(0, 2, role="seed", conditioning_frames=2),
        Node(2, 2, dropped=True),
        Node(4, 2, role="degraded"),
        Node(44, 2),
    )
    graph, grads = FrameGraph(nodes), []
    latents, noise, memory_noise = clip(graph)
    for alone in (False, True):
        model, forcing = random_transformer().train(), TeacherForcing()
        with forcing.attach(model) as teacher, teacher.chunk(graph, for_loss=alone) as step:
            velocity = step.velocity(model, latents, noise, levels(graph), text(chunks=4), memory_noise)
            step.loss(velocity, latents, noise).mean().backward()
        grads.append([p.grad for p in model.parameters()])
    assert StreamLayout.for_loss(graph).names == ("c0", "c2", "x1", "x3")
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


# -- it is what streaming does -----------------------------------------------------------------------------------------


def trained():
    pm = PMRoPE(PMRoPEConfig(*SIZES))
    for i, parameter in enumerate(pm.parameters()):
        parameter.data = 0.15 * seeded(*parameter.shape, seed=20 + i)
    return pm


def cameras(frames, batch=2):
    q = torch.linalg.qr(seeded(batch, frames, 3, 3, seed=3)).Q
    c2w = torch.eye(4).repeat(batch, frames, 1, 1)
    c2w[..., :3, :3] = q * torch.linalg.det(q)[..., None, None]
    c2w[..., :3, 3] = 3 * seeded(batch, frames, 3, seed=4)
    return CameraPath.of(Cameras(c2w, torch.full((batch, frames, 4), 0.7)))


def tokens():
    """Two samples of memory, of which one lacks a token."""
    return Memory(seeded(2, 3, 48, seed=4), mask=torch.tensor([[True, True, True], [True, False, True]]))


def streamed(model, graph, path, posed, parts, prompts):
    """Chunk by chunk: a noisy chunk sees the cache, and is written clean; a dropped one leaves it afterwards."""
    latents, noise, memory_noise = parts
    cache, outs = KVCache(64 * frame_bytes(model, 4, 4, 2)), []
    stacked = [graph.noise_levels(row) for row in levels(graph).tolist()]
    clean, noisy = (torch.stack(x)[:, None, :, None, None] for x in zip(*stacked, strict=True))
    with cache.attach(model) as cached, torch.no_grad():
        for i, (node, span) in enumerate(zip(graph.nodes, spans(graph), strict=True)):
            at, held = range(node.time, node.stop), cache.branch().positions
            for sigma, eps, write in ((noisy, noise, False), (clean, memory_noise, True)):
                x, t = ((1 - sigma) * latents + sigma * eps)[:, :, span], 1000 * sigma[:, 0, span, 0, 0]
                rows = [node.camera + k for k in range(node.frames)]
                with cached.chunk(at, read=held, write=write), posed.chunk(path.frames(rows)):
                    out = model(x, t.repeat_interleave(TOKENS, 1), prompts[:, i], return_dict=False)[0]
                if not write:
                    outs.append(out)
            if node.dropped:
                cache.branch().drop(at)
    return torch.cat(outs, 2)


@settings(max_examples=12, deadline=None)
@given(graphs(max_chunks=4), st.permutations(range(3)))
def test_it_equals_streaming_with_cameras_memory_and_a_prompt_a_chunk_attached_in_any_order(graph, order):
    graph = FrameGraph(tuple(replace(node, camera=node.camera or 0) for node in graph.nodes))
    model, pm, forcing, path, parts = random_transformer(), trained(), TeacherForcing(), cameras(60), clip(graph)
    prompts = text(chunks=len(graph.nodes))
    things = (pm, forcing, SelfAttentionConcat(tokens()))
    attached = {i: things[i].attach(model) for i in order}
    posed, teacher, _ = (attached[i] for i in range(3))
    with teacher.chunk(graph) as step, posed.chunk(stream_cameras(graph, path)), torch.no_grad():
        out = step.velocity(model, parts[0], parts[1], levels(graph), prompts, parts[2])
    for attachment in attached.values():
        attachment.detach()
    assert_untouched(model)
    with pm.attach(model) as posed, SelfAttentionConcat(tokens()).attach(model):
        torch.testing.assert_close(out, streamed(model, graph, path, posed, parts, prompts), **TIGHT)


def test_cameras_memory_and_prompts_each_matter(model):
    """Else the equality above would hold of a forward that ignores one."""
    graph = FrameGraph(tuple(replace(node, camera=i) for i, node in enumerate(PLAIN.nodes)))
    parts, prompts, pm, path, outs = clip(graph), text(chunks=4), trained(), cameras(60), []
    for cams, memory, words in itertools.product(
        [path, cameras(60, batch=1)], [tokens(), Memory(tokens().tokens)], [prompts, prompts.flip(1)]
    ):
        forcing = TeacherForcing()
        attached = [x.attach(model) for x in (forcing, pm, SelfAttentionConcat(memory))]
        teacher, posed, _ = attached
        with teacher.chunk(graph) as step, posed.chunk(stream_cameras(graph, cams)), torch.no_grad():
            outs.append(step.velocity(model, parts[0], parts[1], levels(graph), words, parts[2]))
        for attachment in attached:
            attachment.detach()
    assert all((a - b).abs().max() > 1e-3 for a, b in itertools.combinations(outs, 2))


def test_graphs_may_follow_each_other(model):
    """Of other chunks, with a prompt each, under one attachment."""
    forcing, graphs = TeacherForcing(), [PLAIN, FrameGraph.chunks(8, chunk=4)]
    outs = []
    with forcing.attach(model) as teacher, torch.no_grad():
        for graph in graphs:
            with teacher.chunk(graph) as step:
                outs.append(step.velocity(model, *clip(graph)[:2], 0.7, text(chunks=len(graph.nodes))))
    for graph, out in zip(graphs, outs, strict=True):
        with forcing.attach(model) as teacher, teacher.chunk(graph) as step, torch.no_grad():
            assert torch.equal(out, step.velocity(model, *clip(graph)[:2], 0.7, text(chunks=len(graph.nodes))))


def test_gated_memory_is_seen_by_every_chunk(model):
    memory = replace(tokens(), gate=MemoryGate(*SIZES[:2], start=0.5)())
    forcing, parts, outs = TeacherForcing(), clip(PLAIN), []
    for first in (True, False):
        both = [forcing, SelfAttentionConcat(memory)]
        attached = [both[not first].attach(model), both[first].attach(model)]
        with torch.no_grad(), attached[not first].chunk(PLAIN) as step:
            outs.append(step.velocity(model, parts[0], parts[1], levels(PLAIN), text(), parts[2]))
        for attachment in attached:
            attachment.detach()
    base = forced(model, PLAIN, *parts)
    assert torch.equal(*outs) and ((outs[0] - base).abs().amax((0, 1, 3, 4)) > 1e-3).all()


# -- training ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradients_are_the_same_with_checkpointing_even_when_the_graph_is_over(model, reentrant):
    def checkpoint(function, *args):
        return torch.utils.checkpoint.checkpoint(function, *args, use_reentrant=reentrant)

    grads, forcing, (latents, noise, _) = [], TeacherForcing(), clip(PLAIN)
    for checkpointing in (False, True):
        model = random_transformer().train()
        if checkpointing:
            model.enable_gradient_checkpointing(checkpoint)
        with forcing.attach(model) as teacher:
            with teacher.chunk(PLAIN) as step:
                velocity = step.velocity(model, latents, noise, 0.7, text(chunks=4))
                loss = step.loss(velocity, latents, noise).mean()
            other = FrameGraph.chunks(9, chunk=3)
            with teacher.chunk(other) as step:  # another one has run by the time of backward
                with torch.no_grad():
                    step.velocity(model, *clip(other)[:2], 0.7, text(chunks=3))
                loss.backward()
        grads.append([p.grad for p in model.parameters()])
    assert all((g is not None and g.abs().max() > 0) for g in grads[0])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-7)


def test_what_is_learnt_from_is_what_the_graph_says():
    nodes = (
        Node(0, 2, role="seed", conditioning_frames=1),
        Node(2, 2, role="degraded", sigma=0.5),
        Node(4, 2, role="recovery"),
    )
    graph = FrameGraph(nodes)
    step = TeacherForcing().attach(random_transformer()).chunk(graph)
    latents, noise, memory_noise = clip(graph)
    both, timesteps = step.streams(latents, noise, torch.tensor([0.8, 0.4]), memory_noise)
    clean, noisy = both[:, :, :6], both[:, :, 6:]
    assert timesteps.tolist() == [
        [0, 0, 500, 500, 0, 0, 0, 800, 0, 0, 800, 800],
        [0, 0, 500, 500, 0, 0, 0, 400, 0, 0, 400, 400],
    ]
    for frames, kept in ((clean, [0, 1, 4, 5]), (noisy, [0, 2, 3])):
        assert torch.equal(frames[:, :, kept], latents[:, :, kept])
    torch.testing.assert_close(clean[:, :, 2:4], (latents + memory_noise)[:, :, 2:4] / 2)
    torch.testing.assert_close(noisy[1, :, [1, 4, 5]], (0.6 * latents + 0.4 * noise)[1, :, [1, 4, 5]])
    velocity = (noise - latents).requires_grad_()
    changed = velocity + torch.tensor([9.0, 1, 9, 9, 1, 2])[:, None, None]
    loss = step.loss(changed, latents, noise)
    torch.testing.assert_close(loss, torch.full((2,), 2.0))  # (1 + 1 + 4) / 3
    loss.sum().backward()
    assert (velocity.grad.abs().amax((0, 1, 3, 4)) > 0).tolist() == graph.loss_mask().tolist()


# -- the model it is attached to ---------------------------------------------------------------------------------------


def assert_untouched(model):
    assert all(type(a.processor) is WanAttnProcessor for block in model.blocks for a in (block.attn1, block.attn2))
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def test_detached_it_leaves_nothing_behind(model):
    x, keys = seeded(2, 16, 3, 4, 4), list(model.state_dict())

    def run():
        with torch.no_grad():
            return model(x, torch.tensor([700.0, 1.0]), text(), return_dict=False)[0]

    base = run()
    with TeacherForcing().attach(model):
        assert list(model.state_dict()) == keys
    assert torch.equal(run(), base)
    assert_untouched(model)


def test_wrong_use_is_named_and_leaves_the_model_alone(model):
    forcing, parts = TeacherForcing(), clip(PLAIN)
    with pytest.raises(InputError, match="each once"):
        forcing.attach()
    with pytest.raises(InputError, match="patches latent frames"):
        forcing.attach(random_transformer(patch_size=(2, 2, 2)))
    with forcing.attach(model) as teacher:
        with pytest.raises(MemkitError, match="teacher forcing ran outside a chunk"):
            model(seeded(2, 16, 8, 4, 4), torch.zeros(2, 8), text())
        with pytest.raises(InputError, match="attached already"):
            TeacherForcing().attach(model)
        with teacher.chunk(PLAIN) as step:
            with pytest.raises(MemkitError, match="do not nest"), teacher.chunk(PLAIN):
                pass
            with pytest.raises(InputError, match="8 frames, the latents 7"):
                step.velocity(model, parts[0][:, :, :7], parts[1][:, :, :7], 0.5, text())
            with pytest.raises(InputError, match="16 frames, the latents 8"):
                model(parts[0], torch.zeros(2, 8), text())
            with pytest.raises(InputError, match="timestep for each frame"):
                model(torch.cat([parts[0]] * 2, 2), torch.zeros(2), text())
            with pytest.raises(InputError, match="3 prompts for 4 chunks"):
                step.velocity(model, parts[0], parts[1], 0.5, text(chunks=3))
            with pytest.raises(InputError, match="3 samples for a batch of 2"):
                step.velocity(model, parts[0], parts[1], torch.ones(3), text())
            with pytest.raises(InputError, match="in \\[0, 1\\]"):
                step.velocity(model, parts[0], parts[1], 1.5, text())
    with pytest.raises(InputError, match="none carries loss"):
        forcing.attach(random_transformer()).chunk(FrameGraph((Node(0, 2, conditioning_frames=2),)), for_loss=True)
    with pytest.raises(InputError, match="at 0 has no camera"):
        stream_cameras(PLAIN, cameras(9))
    assert_untouched(model)


@pytest.mark.parametrize("cache_first", [True, False])
def test_a_cache_beside_it_is_refused(model, cache_first):
    both = [TeacherForcing(), KVCache(10**6)]
    with both[cache_first].attach(model), pytest.raises(InputError, match="positions in time"):
        both[not cache_first].attach(model)
    assert_untouched(model)
