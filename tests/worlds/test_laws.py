"""Closed-form motion against stepping, and pictures against the state they show."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memkit.worlds import bounce_height, render, sample_law
from memkit.worlds.laws import COLOURS, PLANETS, RESTITUTION, SIZES, camera


def stepped(times, height, gravity, restitution):
    """Event-driven: fly to the next contact, reverse the speed, repeat."""
    out = []
    for time in times:
        z, v, left = height, 0.0, float(time)
        for _ in range(200):
            contact = (v + (v * v + 2 * gravity * z) ** 0.5) / gravity
            if left < contact:
                z = z + v * left - 0.5 * gravity * left**2
                break
            left -= contact
            v = restitution * (gravity * contact - v)
            z = 0.0
            if v < 1e-9:
                break
        out.append(z)
    return torch.tensor(out, dtype=torch.float64)


@given(
    height=st.floats(0.3, 3.0),
    gravity=st.floats(1.0, 20.0),
    restitution=st.sampled_from(sorted(RESTITUTION.values())),
)
@settings(max_examples=60, deadline=None)
def test_the_closed_form_is_the_stepped_motion(height, gravity, restitution):
    times = torch.linspace(0, 2.5, 41, dtype=torch.float64)
    got = bounce_height(times, height, gravity, restitution)
    torch.testing.assert_close(got, stepped(times, height, gravity, restitution), atol=2e-5, rtol=0)
    assert (got >= 0).all() and got[0] == height


def test_energy_after_each_bounce_falls_by_the_square_of_the_restitution():
    times = torch.linspace(0, 4, 8001, dtype=torch.float64)
    z = bounce_height(times, 2.0, 9.0, 0.65)
    peaks = z[1:-1][(z[1:-1] > z[:-2]) & (z[1:-1] >= z[2:])]
    ratios = peaks[1:4] / peaks[:3]
    torch.testing.assert_close(ratios, torch.full((3,), 0.65**2, dtype=torch.float64), rtol=1e-3, atol=0)


@pytest.mark.parametrize("seed", range(12))
def test_the_body_is_seen_where_the_state_says_and_in_its_colour(seed):
    law = sample_law(random.Random(seed), "train")
    video = law.video()
    assert video.shape == (17, 64, 64, 3) and video.dtype == torch.uint8
    assert torch.equal(video, law.video())
    view, state = camera(), law.state(torch.arange(17) / 8)
    seen = render(law.scene(), view, 64, 64)
    assert torch.equal((seen.rgb * 255).round().to(torch.uint8), video)
    local = (state - view.c2w[0, :3, 3]) @ view.c2w[0, :3, :3]
    fx, fy, cx, cy = view.intrinsics[0]
    column, row = 64 * (fx * local[:, 0] / local[:, 2] + cx), 64 * (fy * local[:, 1] / local[:, 2] + cy)
    colour = torch.tensor(COLOURS[law.colour])
    for frame in range(17):
        mine = seen.ids[frame] == 0
        rows, columns = (axis.float().mean() + 0.5 for axis in mine.nonzero(as_tuple=True))
        if 6 < row[frame] < 58 and 6 < column[frame] < 58:  # wholly in the picture
            assert abs(rows - row[frame]) < 1.5 and abs(columns - column[frame]) < 1.5
        own = seen.rgb[frame][mine].mean(0)
        assert torch.nn.functional.cosine_similarity(own, colour, dim=0) > 0.97


def test_captions_name_what_is_there_and_never_the_gravity():
    for seed in range(20):
        law = sample_law(random.Random(seed), "test")
        words = law.caption.split()
        assert {law.colour, law.size, law.material, law.shape, law.planet} <= set(words)
        assert not any(character.isdigit() for character in law.caption)


def test_no_planet_or_gravity_is_in_two_splits():
    names = [name for planets in PLANETS.values() for name in planets]
    values = [value for planets in PLANETS.values() for value in planets.values()]
    assert len(set(names)) == len(names) and len(set(values)) == len(values)
    for split, planets in PLANETS.items():
        assert {sample_law(random.Random(i), split).planet for i in range(200)} == set(planets)
    assert list(SIZES.values()) == sorted(SIZES.values())
