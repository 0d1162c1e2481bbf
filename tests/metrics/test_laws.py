"""The whole measure on rendered truth, and what it says of clips without a law."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from memkit.metrics import LawMeasure, body_found, measure_law
from memkit.video import to_uint8
from memkit.worlds import LAWS, Event, Interrupted, Interruption, render, sample_law
from memkit.worlds.constants import COLOURS
from memkit.worlds.event import camera
from memkit.worlds.processes import Cool
from memkit.worlds.solids import Drop
from memkit.worlds.tanks import Dye, Fill

SPLITS = ("train", "memory", "test")
MOST = {  # error of a constant on rendered truth
    "gravity": 0.3,
    "restitution": 0.03,
    "friction": 0.06,
    "rate": 0.03,
    "stiffness": 0.5,
}


def draw(kind: type[Event], seed: int = 0) -> Event:
    return kind.draw(random.Random(f"laws/{kind.kind}/{seed}"), SPLITS[seed % 3])


@pytest.fixture(scope="module")
def truth() -> list[tuple[Event, Tensor, LawMeasure]]:
    clips = [(event, event.video()) for event in (draw(kind, seed) for kind in LAWS for seed in range(1))]
    return [(event, video, measure_law(video, event)) for event, video in clips]


def test_constants_and_states_of_rendered_truth(truth) -> None:
    for event, _, measure in truth:
        assert measure.found and measure.found_share > 0.7, event
        for name, value in measure.constants.items():
            assert math.isnan(value) or abs(value - float(getattr(event, name))) < MOST[name], (event, name, value)
        assert measure.state_error < 0.05 and measure.law_residual < 0.05
        assert measure.residual < measure.law_residual + 2e-3  # every constant is free to be the right one


def test_gravity_and_restitution_of_drops() -> None:
    off = []
    for seed in range(6):
        event = draw(Drop, seed)
        measure = measure_law(event.video(), event)
        off.append(abs(measure.gravity - event.gravity))  # pyright: ignore
        assert math.isnan(measure.restitution) or measure.restitution == pytest.approx(event.restitution, abs=0.05)  # pyright: ignore
    assert sum(off) / len(off) < 0.1


def test_the_body_is_found_in_its_own_colour_alone(truth) -> None:
    for event, video, _ in truth:
        assert body_found(video, event), event
        others = [c for c in COLOURS if c not in (event.colour, getattr(event, "other_colour", None))]
        for colour in random.Random(event.caption).sample(others, 2):
            assert not body_found(video, replace(event, colour=colour)), (event, colour)


def test_the_nearest_hues_are_told_apart() -> None:
    for colour, wrong in (("orange", "yellow"), ("yellow", "orange"), ("red", "orange"), ("purple", "blue")):
        event = replace(draw(Drop, 1), colour=colour)
        video = event.video(4)
        assert body_found(video, event) and not body_found(video, replace(event, colour=wrong))


@pytest.mark.parametrize("kind", [Cool, Dye])
def test_a_changing_colour_is_known_by_where_it_comes_from(kind: type[Event]) -> None:
    event = replace(draw(kind), colour="green", **({"into": "red"} if kind is Dye else {}))
    video = event.video(9, 1.5)
    assert body_found(video, event)
    assert not body_found(video, replace(event, colour="blue"))


def test_a_body_seen_too_rarely_is_not_found() -> None:
    event = draw(Drop, 2)
    video = event.video(10)
    video[6:] = to_uint8(render(event.backdrop(), camera(), 64, 64).rgb)
    assert body_found(video, event, 0.6) and not body_found(video, event, 0.65)


@pytest.mark.parametrize("kind", [Drop, Fill, Dye])
def test_clips_without_a_body_obey_no_law(kind: type[Event]) -> None:
    event, generator = draw(kind, 1), torch.Generator().manual_seed(0)
    empty = to_uint8(render(event.backdrop(), camera(), 64, 64).rgb).repeat(17, 1, 1, 1)
    noise = torch.randint(0, 256, empty.shape, generator=generator).to(torch.uint8)
    for video in (empty, noise):
        measure = measure_law(video, event)
        assert not measure.found and measure.found_share == 0 and not body_found(video, event)
        numbers = (measure.state_error, measure.law_residual, measure.residual, *measure.constants.values())
        assert all(math.isnan(number) for number in numbers)
        assert math.isnan(measure.gravity) and math.isnan(measure.restitution)


def test_a_body_that_jumps_about_obeys_no_law_and_is_no_one_body() -> None:
    clips = [draw(Drop, 4 + seed) for seed in range(17)]
    event = clips[0]
    shuffled = torch.cat([
        replace(event, x=random.Random(i).uniform(-1.9, 1.9), height=random.Random(-i - 1).uniform(0, 3)).video(1)
        for i in range(17)
    ])  # fmt: skip
    assert not measure_law(shuffled, event).found and not body_found(shuffled, event)


def test_the_wrong_planet_is_told_from_the_right_one() -> None:
    event = replace(draw(Drop, 3), gravity=5.0)
    video = event.video()
    right, wrong = measure_law(video, event), measure_law(video, replace(event, gravity=9.0))
    assert wrong.constants == right.constants and wrong.residual == right.residual
    assert wrong.law_residual > 5 * right.law_residual and wrong.state_error > 5 * right.state_error


@pytest.mark.parametrize(("size", "fps", "start"), [(32, 12.0, 0.0), (96, 8.0, 0.4)])
def test_any_size_rate_and_beginning(size: int, fps: float, start: float) -> None:
    looks = {"size": "medium", "colour": "red", "shape": "ball", "material": "glass", "restitution": 0.68}
    event = replace(sample_law(random.Random(5), kinds=("drop",)), **looks, gravity=4.6, height=2.4)
    measure = measure_law(event.video(12, fps, size, start), event, fps, start)
    assert measure.gravity == pytest.approx(4.6, abs=0.2) and measure.state_error < 0.05
    assert measure_law(event.video(12, fps, size, start), event, fps, start + 0.3).state_error > 0.1


def test_frames_in_the_dark_are_left_out() -> None:
    event = draw(Fill, 1)
    clip = Interrupted(event, Interruption("lights-off", 1.0, 3.0))
    measure = measure_law(clip.video(33), event)
    assert measure.found and 0.66 < measure.found_share < 0.9 and measure.state_error < 0.01
