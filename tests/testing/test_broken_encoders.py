"""Encoders with one fault each: the suite names the property that fails."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from memkit.encoders import MemoryGate, check_clips, encode_clips
from memkit.memory import Memory
from memkit.testing import CheckFailed, check_encoder, clips
from tests.helpers.own_encoder import Small, SmallConfig


class IgnoresTheMask(Small):
    def forward(self, latents, mask=None):
        return super().forward(latents)


class MultipliesByTheMask(Small):
    def forward(self, latents, mask=None):
        if mask is None:
            return super().forward(latents)
        tokens = super().forward(latents * mask[:, :, None, None, None, None]).tokens * mask[..., None]
        return Memory(tokens, mask)


class MasksOnlyAfterwards(Small):
    """Zeros after the layers: right forwards, NaN backwards."""

    def forward(self, latents, mask=None):
        check_clips(latents, mask, 3)
        tokens = self.out(latents.mean((-3, -2, -1)))
        return Memory(tokens) if mask is None else Memory(torch.where(mask[..., None], tokens, 0.0), mask)


class LeavesMaskedTokens(Small):
    def forward(self, latents, mask=None):
        memory = super().forward(latents, mask)
        return memory if mask is None else replace(memory, tokens=memory.tokens + 1)


class MaskForgotten(Small):
    def forward(self, latents, mask=None):
        return Memory(super().forward(latents, mask).tokens)


class AveragesAllClips(Small):
    """The masked clips count as zeros."""

    def forward(self, latents, mask=None):
        memory = super().forward(latents, mask)
        tokens = memory.tokens + memory.tokens.mean(1, keepdim=True)
        return Memory(tokens if mask is None else tokens.masked_fill(~mask[..., None], 0), memory.mask)


class MixesTheBatch(Small):
    def forward(self, latents, mask=None):
        memory = super().forward(latents, mask)
        return replace(memory, tokens=memory.tokens - memory.tokens.mean(0, keepdim=True))


class KnowsThePlace(Small):
    def forward(self, latents, mask=None):
        memory = super().forward(latents, mask)
        place = torch.arange(latents.shape[1])[None, :, None]
        if mask is None:
            return Memory(memory.tokens + place)
        own = torch.where(mask, mask.long().cumsum(1) - 1, 0)[..., None]  # among the real ones
        return Memory((memory.tokens + own).masked_fill(~mask[..., None], 0), mask)


class DrawsNoise(Small):
    def encode(self, clips):
        return super().encode(clips) + 1e-3 * torch.randn(len(clips), 1, self.config.dim)


class Blind(Small):
    def encode(self, clips):
        return super().encode(torch.zeros_like(clips))


class Infinite(Small):
    def encode(self, clips):
        return super().encode(clips) / 0.0


class HasADeadWeight(Small):
    def __init__(self, config=SmallConfig()):  # noqa: B008
        super().__init__(config)
        self.unused = nn.Parameter(torch.ones(3))


class TakesAnything(Small):
    def forward(self, latents, mask=None):
        while latents.ndim < 6:
            latents = latents[:, None]
        return encode_clips(self.encode, self.out.weight.dtype, mask, latents[:, :, :3])


class ForgetsItsScale(Small):
    """A number that is neither in the config nor a buffer."""

    scale = 1.0

    def encode(self, clips):
        return self.scale * super().encode(clips)


def rescaled():
    encoder = ForgetsItsScale()
    encoder.scale = 2.0
    return encoder


BROKEN = {
    IgnoresTheMask: "masked clips are never read",
    MultipliesByTheMask: "masked clips are never read",
    LeavesMaskedTokens: "tokens of masked clips are zero and masked",
    MaskForgotten: "tokens of masked clips are zero and masked",
    AveragesAllClips: "masked clips do not influence real ones",
    MixesTheBatch: "samples are independent|depend on the clips",
    KnowsThePlace: "reordering clips reorders tokens",
    DrawsNoise: "equal inputs give equal tokens",
    Blind: "tokens depend on the clips",
    Infinite: "all finite",
    HasADeadWeight: "gradients reach every parameter.*No gradient reaches unused",
    MasksOnlyAfterwards: "gradients ignore masked clips",
    TakesAnything: "wrong shapes are refused",
    rescaled: "a saved encoder is loaded to the bit",
}


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
def test_a_broken_encoder_is_named_by_its_property(kind):
    torch.manual_seed(0)
    with pytest.raises(CheckFailed, match=f"'.*({BROKEN[kind]})"):
        check_encoder(kind(), shrink=False)


def test_a_sound_encoder_is_as_before_and_the_seed_decides():
    torch.manual_seed(0)
    encoder = Small().train()
    encoder.gate = MemoryGate(2, 2)
    before, random = {k: v.clone() for k, v in encoder.state_dict().items()}, torch.get_rng_state()
    reports = [check_encoder(encoder, seed=seed) for seed in (1, 1, 2)]
    assert encoder.training and all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert reports[0] == reports[1] and reports[0].figures != reports[2].figures
    assert "samples are independent" in repr(reports[0]) and "13 properties hold" in repr(reports[0])


def test_the_part_that_raises_an_error_is_named_with_it():
    class Raises(Small):
        def encode(self, clips):
            raise RuntimeError("out of order")

    with pytest.raises(CheckFailed, match="could not be measured .RuntimeError: out of order") as caught:
        check_encoder(Raises(), inputs=clips(channels=3))
    assert isinstance(caught.value.__cause__, RuntimeError) and caught.value.failed is None
