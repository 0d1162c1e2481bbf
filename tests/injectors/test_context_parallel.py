"""Memory where two processes share the tokens of one video: what one process computes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig
from torch.distributed.device_mesh import init_device_mesh

from memkit.errors import MemkitError
from memkit.injectors import AttentionRecorder, SelfAttentionConcat
from memkit.memory import Memory
from tests.helpers.attachables import call, seeded
from tests.helpers.launching import two_processes
from tests.helpers.random_wan import random_pipeline, random_transformer

WIDTH, LAYERS, HEADS = 48, 3, 2


def memories() -> dict[str, list[Memory]]:
    """Of every kind; in one case two at once."""
    tokens, each = seeded(1, 5, WIDTH, seed=4), seeded(2, 7, WIDTH, seed=5)
    mask = torch.tensor([[True] * 4 + [False] * 3, [False] * 7])
    weight = torch.linspace(-1, math.log(100), 7).repeat(2, 1)
    gate = seeded(LAYERS, HEADS, seed=6).tanh()
    return {
        "plain": [Memory(tokens)],
        "weighted": [Memory(each, None, weight)],
        "masked, one sample without any": [Memory(each, mask)],
        "gated": [Memory(tokens, gate=gate)],
        "two": [Memory(tokens), Memory(each, mask, weight, gate)],
    }


def attached(model, memories: list[Memory]) -> torch.Tensor:
    held = [SelfAttentionConcat(memory).attach(model) for memory in memories]
    out = call(model)
    for each in held:
        each.detach()
    return out


def shared(model, **config):
    """The model, whose tokens the two processes share."""
    torch.accelerator.device_count = lambda: 1  # diffusers looks for accelerators; gloo needs none
    shape = (config.get("ring_degree", 1), config.get("ulysses_degree", 1))
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("ring", "ulysses"))
    model.enable_parallelism(config=ContextParallelConfig(**config, mesh=mesh))
    return model


@torch.no_grad()
def compare() -> None:
    """In each of two processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    own = call(random_transformer())
    model = shared(random_transformer(), ulysses_degree=2)
    for name, some in memories().items():
        want, got = attached(random_transformer(), some), attached(model, some)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
        assert (want - own).abs().max() > 0.05, name
    torch.testing.assert_close(call(model), own, rtol=1e-5, atol=1e-5)

    tokens = memories()["plain"][0]
    with pytest.raises(MemkitError, match="in parallel .*memory tokens would act on each part"):
        SelfAttentionConcat(tokens, AttentionRecorder()).attach(model)
    per_token = torch.full((2, 12), 500.0)
    with SelfAttentionConcat(tokens).attach(model), pytest.raises(MemkitError, match="own timestep"):
        call(model, timestep=per_token)
    with pytest.raises(MemkitError, match="in parallel .*ulysses_degree"):
        SelfAttentionConcat(tokens).attach(shared(random_transformer(), ring_degree=2))

    pipe = random_pipeline()
    options = {"num_frames": 9, "height": 32, "width": 32, "num_inference_steps": 2, "output_type": "latent"}

    def generated() -> torch.Tensor:
        with SelfAttentionConcat(tokens).attach(pipe):
            return pipe("a red ball falls", generator=torch.Generator().manual_seed(0), **options).frames

    want = generated()
    shared(pipe.transformer, ulysses_degree=2)
    torch.testing.assert_close(generated(), want, rtol=1e-4, atol=1e-4)
    print("compared")
    dist.barrier()
    dist.destroy_process_group()


def test_two_processes_compute_what_one_does(tmp_path: Path) -> None:
    assert "compared" in two_processes(compare, tmp_path)
