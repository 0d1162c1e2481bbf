"""Teacher forcing equals streaming chunk by chunk, with cameras, memory and one prompt per chunk."""

import itertools
from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memkit.encoders import MemoryGate
from memkit.frame_graph import FrameGraph
from memkit.injectors import KVCache, SelfAttentionConcat, TeacherForcing, frame_bytes, stream_cameras
from memkit.memory import Memory
from tests.helpers.random_graphs import graphs
from tests.helpers.random_wan import random_transformer
from tests.injectors.teacher_forcing.common import (
    PLAIN,
    SIZES,
    TIGHT,
    TOKENS,
    assert_untouched,
    cameras,
    clip,
    levels,
    memory_tokens,
    random_pm_rope,
    spans,
    teacher_forced,
    text,
)


def streamed(model, graph, path, posed, parts, prompts):
    """The velocity chunk by chunk: each noisy chunk reads the cache, then its clean frames are written to it.

    A dropped chunk leaves the cache afterwards.
    """
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
def test_it_equals_streaming_with_cameras_memory_and_a_prompt_per_chunk_attached_in_any_order(graph, order):
    graph = FrameGraph(tuple(replace(node, camera=node.camera or 0) for node in graph.nodes))
    model, pm, forcing, path, parts = random_transformer(), random_pm_rope(), TeacherForcing(), cameras(60), clip(graph)
    prompts = text(chunks=len(graph.nodes))
    things = (pm, forcing, SelfAttentionConcat(memory_tokens()))
    attached = {i: things[i].attach(model) for i in order}
    posed, teacher, _ = (attached[i] for i in range(3))
    with teacher.chunk(graph) as step, posed.chunk(stream_cameras(graph, path)), torch.no_grad():
        out = step.velocity(model, parts[0], parts[1], levels(graph), prompts, parts[2])
    for attachment in attached.values():
        attachment.detach()
    assert_untouched(model)
    with pm.attach(model) as posed, SelfAttentionConcat(memory_tokens()).attach(model):
        torch.testing.assert_close(out, streamed(model, graph, path, posed, parts, prompts), **TIGHT)


def test_cameras_memory_and_prompts_each_matter(model):
    """Otherwise the equality above would hold for a forward pass that ignores one of them."""
    graph = FrameGraph(tuple(replace(node, camera=i) for i, node in enumerate(PLAIN.nodes)))
    parts, prompts, pm, path, outs = clip(graph), text(chunks=4), random_pm_rope(), cameras(60), []
    for cams, memory, words in itertools.product(
        [path, cameras(60, batch=1)], [memory_tokens(), Memory(memory_tokens().tokens)], [prompts, prompts.flip(1)]
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
    """Graphs with different chunks, each with one prompt per chunk, under one attachment."""
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
    memory = replace(memory_tokens(), gate=MemoryGate(*SIZES[:2], start=0.5)())
    forcing, parts, outs = TeacherForcing(), clip(PLAIN), []
    for first in (True, False):
        both = [forcing, SelfAttentionConcat(memory)]
        attached = [both[not first].attach(model), both[first].attach(model)]
        with torch.no_grad(), attached[not first].chunk(PLAIN) as step:
            outs.append(step.velocity(model, parts[0], parts[1], levels(PLAIN), text(), parts[2]))
        for attachment in attached:
            attachment.detach()
    base = teacher_forced(model, PLAIN, *parts)
    assert torch.equal(*outs) and ((outs[0] - base).abs().amax((0, 1, 3, 4)) > 1e-3).all()
