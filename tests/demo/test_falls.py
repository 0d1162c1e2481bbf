"""The measured falls of the demo: what is in its files is what its figures and its plots say."""

import json
import math
import random
import re
from dataclasses import replace

import pytest
import torch

from memkit.backbones import WanBackbone
from memkit.demo import plots
from memkit.demo.bank import CLIPS
from memkit.demo.demo import ENCODER, Demo
from memkit.demo.falls import CONDITIONS, WRONG, Falls, fall_on, fit_gravity, tiled, untiled
from memkit.demo.figures import Fall, summary, write_figures
from memkit.encoders import FrequencyEncoder
from memkit.generation import generate_videos
from memkit.metrics.states import measure_state
from memkit.video import read_video, to_model
from memkit.worlds.constants import PLANETS
from memkit.worlds.event import times

PLANETS_SHOWN = Demo().planets


@pytest.fixture(scope="module")
def rendered() -> dict[str, torch.Tensor]:
    """The falls of the demo as they are, [frames, height, width, 3]."""
    return {planet: fall_on(planet).video() for planet in PLANETS_SHOWN}


@pytest.fixture(scope="module")
def falls(rendered, tmp_path_factory) -> tuple[Falls, list[Fall]]:
    """Rendered videos in place of generated ones; without memory, all planets are like Odin."""
    falls = Falls(tmp_path_factory.mktemp("falls"), [3, 4], 8.0)
    for planet in PLANETS_SHOWN:
        for condition, shown in zip(CONDITIONS, ("Odin", planet, WRONG[planet]), strict=True):
            falls.add(planet, condition, rendered[shown].repeat(2, 1, 1, 1, 1))
    return falls, falls.rows()


def test_gravity_is_fitted_to_any_fall_from_the_start():
    rng = random.Random(0)
    for _ in range(20):
        event = replace(fall_on("Mira"), gravity=rng.uniform(1.5, 19.0), restitution=rng.uniform(0.1, 0.9))
        height = event.state(times(17))["z"] + 0.02 * torch.randn(17, generator=torch.Generator().manual_seed(1))
        height[rng.randrange(17)] = math.nan
        assert fit_gravity(height, event, 8.0) == pytest.approx(event.gravity, rel=0.03, abs=0.1)


def test_what_is_no_fall_has_no_gravity():
    event = fall_on("Mira")
    hidden = event.state(times(17))["z"]
    hidden[5:12] = math.nan
    assert math.isnan(fit_gravity(hidden, event, 8.0))
    assert math.isnan(fit_gravity(torch.linspace(2.5, 8.0, 17), event, 8.0))


def test_tiles_are_the_videos():
    videos = torch.randint(0, 256, (5, 3, 4, 6, 3), dtype=torch.uint8)
    assert tiled(videos).shape == (3, 12, 18, 3)
    assert torch.equal(untiled(tiled(videos), 5), videos)


def test_rows_say_what_was_shown(falls):
    _, rows = falls
    assert [(row.planet, row.seed) for row in rows] == [(planet, seed) for planet in PLANETS_SHOWN for seed in (3, 4)]
    for row in rows:
        assert (row.truth, row.wrong_truth) == (PLANETS["test"][row.planet], PLANETS["test"][WRONG[row.planet]])
        assert row.right == pytest.approx(row.truth, rel=0.03)
        assert row.wrong == pytest.approx(row.wrong_truth, rel=0.03)
        assert row.without == pytest.approx(PLANETS["test"]["Odin"], rel=0.03)
    figures = summary(rows)
    assert figures["right"]["error"][0] < 0.3 and figures["right"]["correlation"][0] > 0.99
    assert (
        figures["wrong"]["error"][0] > 5
        and figures["wrong"]["correlation"][0] < 0
        and figures["wrong_shown"]["correlation"][0] > 0.99
    )
    assert figures["without"]["fitted"] == figures["without"]["of"] == 6


def test_figures_can_be_computed_again_from_the_videos(falls):
    measured, rows = falls
    for row in random.sample(rows, 2):
        event = fall_on(row.planet)
        for condition in CONDITIONS[1:]:
            file = measured.folder / f"{row.planet.lower()}-{condition}.mp4"
            tile = untiled(read_video(file).frames, 2)[row.seed - 3]
            height = measure_state(tile, event)["z"]
            assert getattr(row, condition) == round(fit_gravity(height, event, 8.0), 3)
            assert row.heights[condition] == [round(z, 3) for z in height.tolist()]


def test_the_plots_show_exactly_the_figures(falls, tmp_path):
    _, rows = falls
    rows = [replace(rows[0], wrong=None), *rows[1:]]
    write_figures(tmp_path / "figures.json", rows, None)
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert figures["panel_accuracy"] == {"with": None, "without": None}
    assert figures["summary"]["wrong"]["fitted"] == 5
    svg = plots.gravity_plot(figures["falls"])
    ticks = {text: float(y) for y, text in re.findall(r'<text x="[\d.]+" y="([\d.]+)" text-anchor="end">(\d+)<', svg)}
    scale = (ticks["20"] - ticks["0"]) / 20
    dots = [(float(cy) + 4 - ticks["0"]) / scale for cy in re.findall(r'cy="([\d.]+)"', svg)]
    known = [getattr(row, name) for row in rows for name in CONDITIONS if getattr(row, name) is not None]
    assert sorted(dots) == pytest.approx(sorted(known), abs=0.05)
    heights = plots.height_plots(figures["falls"], 8.0)
    assert heights.count("<svg") == 3 and all(planet in heights for planet in PLANETS_SHOWN)


def test_the_shipped_memory_decides_how_fast_a_ball_falls():
    """The prompt, the first frame and the noise are the same; only the clips differ."""
    backbone, encoder = WanBackbone.tiny(), FrequencyEncoder.from_pretrained(ENCODER)
    backbone.pipeline().set_progress_bar_config(disable=True)
    event, seeds = fall_on("Odin"), range(4)
    first = backbone.encode_video(to_model(event.video(1)))
    middle = {}
    for planet in ("Mira", "Sol"):
        files = [CLIPS / f"{planet.lower()}-{i}.mp4" for i in range(3)]
        with torch.no_grad():
            clips = backbone.encode_video(torch.cat([to_model(read_video(file).frames) for file in files]))
            memory = encoder(clips[None])
        videos = generate_videos(
            backbone,
            [event.caption] * len(seeds),
            memory,
            seeds=seeds,
            steps=8,
            guidance_scale=1.0,
            conditioning_latents=first,
            text_length=28,
        )
        gravities = [fit_gravity(measure_state(video, event)["z"], event, 8.0) for video in videos]
        middle[planet] = sorted(gravities)[len(seeds) // 2]
    assert middle["Mira"] + 4 < middle["Sol"]
