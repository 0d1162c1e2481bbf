"""Training with TeacherForcing: gradients under checkpointing, and the frames that carry loss."""

import pytest
import torch

from memkit.frame_graph import FrameGraph, Node
from memkit.injectors import TeacherForcing
from tests.helpers.random_wan import random_transformer
from tests.injectors.teacher_forcing.common import PLAIN, clip, text


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
            with teacher.chunk(other) as step:  # another graph has run before backward
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
