"""The estimator against rendered truth, and what it says of clips without a law."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
import torch

from memkit.metrics.laws import fit_law, measure_law, track_body
from memkit.worlds.laws import FPS, NUM_FRAMES, SIZES, Law, bounce_height, sample_law

SPLITS = ("train", "memory", "test")


@pytest.fixture(scope="module")
def clips() -> list[tuple[Law, torch.Tensor]]:
    laws = [sample_law(random.Random(f"estimator/{i}"), SPLITS[i % 3]) for i in range(12)]
    return [(law, law.video()) for law in laws]


def test_gravity_and_path_of_rendered_truth(clips) -> None:
    measures = [(law, measure_law(video, law)) for law, video in clips]
    assert all(m.found for _, m in measures)
    off = [abs(m.gravity - law.gravity) for law, m in measures]
    assert sum(off) / len(off) < 0.2 and max(off) < 1.0
    assert sum(m.trajectory_error for _, m in measures) / len(measures) < 0.035
    assert sum(m.law_error for _, m in measures) / len(measures) < 0.035
    assert sum(abs(m.restitution - law.restitution) for law, m in measures) / len(measures) < 0.08


def test_centre_of_each_frame(clips) -> None:
    seconds = torch.arange(NUM_FRAMES) / FPS
    for law, video in clips:
        track = track_body(video, SIZES[law.size], law.shape)
        off = (track.centre - law.state(seconds)[:, [0, 2]]).norm(dim=-1)
        hard = law.colour == "white" and law.place == "in a lab"
        assert off.nanmedian() < (0.15 if hard else 0.06), law.caption


def test_the_wrong_planet_is_told_from_the_right_one(clips) -> None:
    law, video = next((law, video) for law, video in clips if law.gravity < 7)
    right, wrong = measure_law(video, law), measure_law(video, replace(law, gravity=law.gravity * 2))
    assert wrong.gravity == right.gravity
    assert wrong.law_error > 3 * right.law_error


@pytest.mark.parametrize("size", [32, 64, 96])
def test_any_size_and_length(size: int) -> None:
    looks = {"size": "medium", "colour": "red", "shape": "ball", "place": "in a lab"}
    law = replace(sample_law(random.Random(5)), **looks, gravity=4.6)
    measure = measure_law(law.video(frames=12, fps=12.0, size=size), law, fps=12)
    assert measure.gravity == pytest.approx(4.6, abs=0.4)


def test_a_clip_without_a_body_is_not_found(clips) -> None:
    law, video = clips[0]
    behind = video.flatten(1, 2).float().mean(1).to(torch.uint8)[:, None, None].expand_as(video)
    measure = measure_law(behind.contiguous(), law)
    assert not measure.found and math.isnan(measure.gravity) and math.isnan(measure.trajectory_error)


def test_noise_obeys_no_law(clips) -> None:
    noise = torch.randint(0, 256, clips[0][1].shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert not measure_law(noise, clips[0][0]).found


def test_a_body_that_floats_falls_by_the_least_gravity() -> None:
    fit = fit_law(torch.full((NUM_FRAMES,), 2.0), half=0.3)
    assert fit is not None and fit.gravity < 0.6


def test_a_few_bad_frames_move_nothing() -> None:
    z = bounce_height(torch.arange(NUM_FRAMES) / FPS, 2.0, 7.0, 0.65) + 0.46
    z[[4, 11]] = torch.nan
    z[8] = 0.5 * z[8] + 1.0
    fit = fit_law(z, half=0.46)
    assert fit is not None
    assert fit.gravity == pytest.approx(7.0, rel=0.02)
    assert fit.restitution == pytest.approx(0.65, abs=0.02)


def test_too_few_frames_with_a_body() -> None:
    z = torch.full((NUM_FRAMES,), torch.nan)
    z[:8] = 1.0
    assert fit_law(z, half=0.3) is None
