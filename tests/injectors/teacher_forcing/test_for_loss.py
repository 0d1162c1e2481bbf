"""TeacherForcing with for_loss=True runs only what the loss depends on; the results are the same."""

from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memkit.frame_graph import FrameGraph, Node, StreamLayout
from memkit.injectors import TeacherForcing, stream_cameras
from tests.helpers.differ import differ
from tests.helpers.random_graphs import graphs
from tests.helpers.random_wan import random_transformer
from tests.injectors.teacher_forcing.common import TIGHT, cameras, clip, levels, random_pm_rope, spans, text


def carries_loss(graph):
    return not graph.given().all()


@settings(max_examples=15, deadline=None)
@given(graphs().filter(carries_loss))
def test_what_is_run_for_the_loss_gives_the_same_velocity_with_cameras_and_a_prompt_per_chunk(graph):
    graph = FrameGraph(tuple(replace(node, camera=node.camera or 0) for node in graph.nodes))
    model, pm, forcing, path = random_transformer(), random_pm_rope(), TeacherForcing(), cameras(60)
    latents, noise, memory_noise = clip(graph)
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
    assert differ(a[:, :, mask], b[:, :, mask])


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
