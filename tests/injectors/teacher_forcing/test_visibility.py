"""TeacherForcing: one forward pass of [clean | noisy] equals a dense masked one; which chunk sees which."""

from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memkit.frame_graph import FrameGraph
from memkit.injectors import TeacherForcing
from tests.helpers.dense_attention import DenseSelfAttention
from tests.helpers.differ import differ
from tests.helpers.random_graphs import graphs
from tests.helpers.random_wan import random_transformer
from tests.injectors.teacher_forcing.common import PLAIN, TIGHT, TOKENS, clip, levels, spans, teacher_forced, text


def dense(graph, latents, noise, memory_noise, sigma):
    """The stock model on the clean and the noisy stream at once, with one timestep per token."""
    model, inputs, times = random_transformer(), [], []
    for block in model.blocks:
        block.attn1.set_processor(DenseSelfAttention(graph.positions() * 2, graph.visible(TOKENS)))
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
    out = teacher_forced(random_transformer(), graph, *parts)
    torch.testing.assert_close(out, dense(graph, *parts, levels(graph)), **TIGHT)


def test_a_gap_is_seen(model):
    parts = clip(PLAIN)
    near = FrameGraph((*PLAIN.nodes[:3], replace(PLAIN.nodes[3], time=6)))
    a, b = (teacher_forced(model, graph, *parts) for graph in (PLAIN, near))
    assert torch.equal(a[:, :, :6], b[:, :, :6]) and (a - b)[:, :, 6:].abs().max() > 1e-3


@settings(max_examples=15, deadline=None)
@given(graphs(), st.data())
def test_no_chunk_sees_the_future_and_every_noisy_chunk_sees_itself(graph, data):
    i = data.draw(st.integers(0, len(graph.nodes) - 1))
    span, parts = spans(graph)[i], clip(graph)
    other = parts.clone()
    other[:, :, :, span.start] += 1.0  # one frame of the chunk, in the latents and in all noise
    a, b = (teacher_forced(random_transformer(), graph, *x) for x in (parts, other))
    assert torch.equal(a[:, :, : span.start], b[:, :, : span.start])
    for frame in range(span.start, span.stop):
        assert differ(a[:, :, frame], b[:, :, frame])


@settings(max_examples=15, deadline=None)
@given(graphs(), st.data())
def test_clean_memory_reaches_the_chunks_that_see_it_and_no_dropped_one_does(graph, data):
    i = data.draw(st.integers(0, len(graph.nodes) - 1))
    model, forcing, outs = random_transformer(), TeacherForcing(), []
    with forcing.attach(model) as teacher, teacher.chunk(graph) as step, torch.no_grad():
        latents, noise, memory_noise = clip(graph)
        both, timesteps = step.streams(latents, noise, levels(graph), memory_noise)
        for shift in (0.0, 1.0):
            both[:, :, spans(graph)[i]] += shift  # in the clean stream only
            outs.append(model(both, timesteps, text(), return_dict=False)[0])
    for j, span in enumerate(spans(graph)):
        a, b = (out[:, :, span] for out in outs)
        assert torch.equal(a, b) if j <= i or graph.nodes[i].dropped else differ(a, b)
