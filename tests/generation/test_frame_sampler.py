"""`FrameSampler`: frames at levels of their own; windows that overlap; noise that is permuted."""

from __future__ import annotations

import pytest
import torch

from memkit.backbones import WanBackbone
from memkit.errors import InputError
from memkit.generation import FrameSampler, generate_latents, overlapping_velocity, permuted_noise, synchronous
from tests.helpers.neighbour_videos import video
from tests.helpers.random_wan import random_pipeline
from tests.helpers.type_checks import unchecked

OPTIONS = {"steps": 3, "guidance_scale": 2.0}


def test_frames_that_are_given_stay_and_are_seen_as_conditioning_frames():
    """As image-to-video of the stock pipeline, whose conditioning frames are clean at timestep 0."""
    of = video(3)
    given, sampler = of.noise(kind="given")[:, :, :1], FrameSampler.of(of.backbone, ["a red ball falls"], **OPTIONS)
    start = torch.cat([given, of.noise()[:, :, 1:]], 2)
    out = sampler.run(start, synchronous(3, 3, given=[0]))
    stock = generate_latents(of.backbone, ["a red ball falls"], noise=of.noise(), conditioning_latents=given, **OPTIONS)
    assert torch.equal(out[:, :, :1], given)
    torch.testing.assert_close(out, stock, atol=1e-5, rtol=1e-5)


def test_frames_that_take_no_step_stay_bit_for_bit_also_in_half_precision():
    of = video(3)
    x, before, after = of.noise(), torch.tensor([1, 2, 4]), torch.tensor([2, 2, 4])
    moved = of.sampler.move(x, torch.ones_like(x).bfloat16(), before, after)
    assert torch.equal(moved[:, :, 1:], x[:, :, 1:]) and not torch.equal(moved[:, :, 0], x[:, :, 0])


def test_what_cannot_be_sampled_is_refused():
    experts = WanBackbone.from_pipeline(random_pipeline(boundary_ratio=0.9))
    with pytest.raises(InputError, match="expert"):
        FrameSampler.of(experts, ["a"], steps=2)
    of = video(3)
    with pytest.raises(InputError, match="2 numbers of steps for 3"):
        unchecked(FrameSampler.velocity)(of.sampler, of.noise(), torch.zeros(2, dtype=torch.long))


def test_overlapping_windows_are_mixed_by_linear_weights():
    of = video(5)
    sampler, x, taken = FrameSampler.of(of.backbone, ["a red ball falls"], **OPTIONS), of.noise(), torch.ones(5).long()
    with torch.no_grad():
        first, second = (sampler.velocity(x[:, :, span], taken[span]) for span in (slice(0, 3), slice(1, 5)))
        alone = overlapping_velocity(sampler, x, taken, 3, 2, averaged=False)
        mixed = overlapping_velocity(sampler, x, taken, 3, 2, averaged=True)
    assert torch.equal(alone, torch.cat([first, second[:, :, 2:]], 2))
    torch.testing.assert_close(mixed[:, :, 1], 2 / 3 * first[:, :, 1] + 1 / 3 * second[:, :, 0])
    torch.testing.assert_close(mixed[:, :, 2], 1 / 3 * first[:, :, 2] + 2 / 3 * second[:, :, 1])
    assert torch.equal(mixed[:, :, 0], first[:, :, 0]) and torch.equal(mixed[:, :, 3:], second[:, :, 2:])
    with pytest.raises(InputError, match="overlap"):
        overlapping_velocity(sampler, x, taken, 2, 3, averaged=False)


def test_blocks_of_permuted_noise_share_their_frames():
    template = torch.randn(1, 2, 6, 3, 3, generator=torch.Generator().manual_seed(0))
    noise = permuted_noise(template, 10, 4, torch.Generator().manual_seed(1))
    assert noise.shape[2] == 10 and torch.equal(noise[:, :, :4], template[:, :, 2:])
    rows = {tuple(frame.flatten().tolist()) for frame in template[0].unbind(1)}
    assert {tuple(frame.flatten().tolist()) for frame in noise[0].unbind(1)} <= rows
    with pytest.raises(InputError, match="template"):
        permuted_noise(template, 10, 2)
