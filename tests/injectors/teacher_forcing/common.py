"""Graphs, clips, cameras and memory for the tests of TeacherForcing."""

import itertools

import torch
from diffusers.models.transformers.transformer_wan import WanAttnProcessor

from memkit.cameras import CameraPath, Cameras
from memkit.frame_graph import FrameGraph, Node
from memkit.injectors import TeacherForcing
from memkit.memory import Memory
from memkit.positions import PMRoPE, PMRoPEConfig
from tests.helpers.random_wan import SMALL

TOKENS = 4  # per latent frame of 4×4
TIGHT = {"rtol": 0, "atol": 1e-5}
SIZES = (SMALL["num_layers"], SMALL["num_attention_heads"], SMALL["attention_head_dim"])


def seeded(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def clip(graph, batch=2, seed=1):
    """Latents, noise, and the noise of memory, stacked: shape [3, batch, 16, frames, 4, 4]."""
    return seeded(3, batch, 16, graph.num_frames, 4, 4, seed=seed)


def text(batch=2, chunks=None):
    return seeded(batch, *([] if chunks is None else [chunks]), 6, SMALL["text_dim"], seed=9)


def levels(graph, batch=2):
    """A noise level per sample and chunk, shape [batch, chunks]."""
    return torch.rand(batch, len(graph.nodes), generator=torch.Generator().manual_seed(5))


def teacher_forced(model, graph, latents, noise, memory_noise, prompt=None, batch=2):
    forcing = TeacherForcing()
    with forcing.attach(model) as teacher, teacher.chunk(graph) as step, torch.no_grad():
        return step.velocity(
            model, latents, noise, levels(graph, batch), text(batch) if prompt is None else prompt, memory_noise
        )


def spans(graph):
    """The slice of frames of each chunk in a stream."""
    stops = list(itertools.accumulate(node.frames for node in graph.nodes))
    return [slice(stop - node.frames, stop) for node, stop in zip(graph.nodes, stops, strict=True)]


PLAIN = FrameGraph(tuple(Node(time=t, frames=2) for t in (0, 2, 4, 44)))


def random_pm_rope():
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


def memory_tokens():
    """Memory for two samples, of which the second lacks one token."""
    return Memory(seeded(2, 3, 48, seed=4), mask=torch.tensor([[True, True, True], [True, False, True]]))


def assert_untouched(model):
    assert all(type(a.processor) is WanAttnProcessor for block in model.blocks for a in (block.attn1, block.attn2))
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
