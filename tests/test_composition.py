"""A cache, memory tokens and camera positions on one model: what is left when they come off one by one."""

import itertools
from contextlib import nullcontext

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanAttnProcessor

from memkit.cameras import CameraPath, Cameras
from memkit.encoders import MemoryGate
from memkit.injectors import KVCache, SelfAttentionConcat, frame_bytes
from memkit.memory import Memory
from memkit.positions import PMRoPE, PMRoPEConfig
from tests.helpers.random_wan import SMALL, random_transformer

NAMES = ("cache", "memory", "cameras")


def seeded(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Three:
    """One model, the three parts, and a chunk run with those of them that are attached."""

    def __init__(self):
        self.model = random_transformer()
        self.cache = KVCache(20 * frame_bytes(self.model, 4, 4, 2))
        self.cameras = PMRoPE(PMRoPEConfig.of(self.model))
        for i, parameter in enumerate(self.cameras.parameters()):
            parameter.data = 0.15 * seeded(*parameter.shape, seed=20 + i)
        gate = MemoryGate(SMALL["num_layers"], SMALL["num_attention_heads"], start=0.7)()
        self.memory = SelfAttentionConcat(Memory(seeded(2, 3, 48, seed=4), gate=gate))
        q = torch.linalg.qr(seeded(2, 6, 3, 3, seed=3)).Q
        c2w = torch.eye(4).repeat(2, 6, 1, 1)
        c2w[..., :3, :3] = q * torch.linalg.det(q)[..., None, None]
        c2w[..., :3, 3] = seeded(2, 6, 3, seed=5)
        self.path = CameraPath.of(Cameras(c2w, torch.full((2, 6, 4), 0.7)))
        self.on = {}
        self.attach("cameras", "cache", "memory")
        self.run([0, 1, 2], write=True)  # a history that knew of all three
        for name in NAMES:
            self.detach(name)

    def attach(self, *names):
        for name in names:
            self.on[name] = getattr(self, name).attach(self.model)

    def detach(self, name):
        self.on.pop(name).detach()

    def run(self, at=(3, 4, 5), write=False):
        x, text = seeded(2, 16, 3, 4, 4, seed=1), seeded(2, 6, SMALL["text_dim"], seed=9)
        chunk = self.on["cache"].chunk(at, write=write) if "cache" in self.on else nullcontext()
        posed = self.on["cameras"].chunk(self.path.frames(at)) if "cameras" in self.on else nullcontext()
        with torch.no_grad(), chunk, posed:
            return self.model(x, torch.tensor([700.0, 150.0]), text, return_dict=False)[0]


@pytest.fixture(scope="module")
def alone():
    """The output with each set of parts, attached afresh in one fixed order."""
    three, outs = Three(), {}
    for count in range(4):
        for names in itertools.combinations(NAMES, count):
            three.attach(*names)
            outs[frozenset(names)] = three.run()
            for name in names:
                three.detach(name)
    return outs


def test_each_part_counts(alone):
    assert len(alone) == 8
    assert all((a - b).abs().max() > 1e-3 for a, b in itertools.combinations(alone.values(), 2))


@pytest.mark.parametrize("put_on", list(itertools.permutations(NAMES)))
def test_taken_off_in_any_order_what_is_left_is_what_it_would_be_alone(alone, put_on):
    three = Three()
    for take_off in itertools.permutations(NAMES):
        three.attach(*put_on)
        for name in take_off:
            torch.testing.assert_close(three.run(), alone[frozenset(three.on)], rtol=0, atol=1e-6)
            three.detach(name)
        assert torch.equal(three.run(), alone[frozenset()])  # to the bit
        assert all(type(block.attn1.processor) is WanAttnProcessor for block in three.model.blocks)
        assert not any(m._forward_pre_hooks or m._forward_hooks for m in three.model.modules())
