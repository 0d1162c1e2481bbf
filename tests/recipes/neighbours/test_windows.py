"""Neighbours with windows over frames: each is plain sampling where its window is the video."""

import pytest
import torch

from memkit.errors import InputError
from memkit.generation import generate_latents
from recipes.neighbours.fifo import FIFO
from recipes.neighbours.freelong import FreeLong
from tests.helpers.neighbour_videos import video


def test_plain_sampling_is_that_of_the_stock_pipeline():
    of = video(3)
    options = {"steps": 4, "guidance_scale": 2.0, "text_length": 16}
    stock = generate_latents(of.backbone, ["a red ball falls"], noise=of.noise(), **options)
    assert torch.equal(of.plain(), stock)


def test_freelong_with_alpha_for_all_frames_is_the_model():
    of = video(5)
    assert torch.equal(FreeLong(alpha=2).sample(of), of.plain())
    assert not torch.allclose(FreeLong(alpha=1).sample(of), of.plain(), atol=1e-3)


def test_freelongs_low_frequencies_are_those_of_attention_to_all_frames():
    """With everything in the low band, every step that blends is the model's own."""
    of = video(5)
    everything = FreeLong(alpha=1, cutoff_time=1e6, cutoff_space=1e6, blended=1.0)
    torch.testing.assert_close(everything.sample(of), of.plain(), atol=1e-5, rtol=1e-5)


def test_freelongs_filter_is_the_authors_gaussian():
    t, h, w = torch.meshgrid(*(2 * torch.fft.fftfreq(n).abs() for n in (6, 4, 8)), indexing="ij")
    gaussian = torch.exp(-0.5 * ((t / 0.25) ** 2 + (h / 0.4) ** 2 + (w / 0.4) ** 2))
    gain = FreeLong(cutoff_time=0.25, cutoff_space=0.4).low.gain(6, 4, 8)
    torch.testing.assert_close(gain, gaussian[:, :, :5])


def test_fifo_with_a_video_of_one_window_is_plain_sampling():
    assert torch.equal(FIFO(window=4).sample(video(4)), video(4).plain())


@pytest.mark.parametrize("lookahead", [True, False])
def test_each_frame_of_fifo_takes_every_step_once(constant_velocity, lookahead):
    of = video(7, guidance_scale=1.0)
    out = FIFO(window=2, lookahead=lookahead).sample(of)
    assert out.shape == of.noise().shape
    constant = of.noise()[:, :, 2:] - out[:, :, 2:]
    torch.testing.assert_close(constant, constant[:, :, :1].expand_as(constant), atol=1e-5, rtol=1e-5)
    assert constant.abs().max() > 1e-3


def test_fifo_refuses_steps_that_are_no_whole_windows():
    with pytest.raises(InputError, match="4 steps"):
        FIFO(window=3, lookahead=False).sample(video(7))
