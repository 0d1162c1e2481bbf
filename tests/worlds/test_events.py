"""Each event's closed form against its law, its picture against its state, its caption against both."""

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memkit.errors import InputError
from memkit.worlds import LAWS, sample_law
from memkit.worlds.constants import COLOURS, MATERIALS, PLANETS, SIZES, SPLITS, SUBSTANCES
from memkit.worlds.event import camera, times
from memkit.worlds.interruptions import PROCESSES
from memkit.worlds.motion import bounce_height, brake
from memkit.worlds.people import Circle, Floating, Patrol

EVENTS = tuple(dict.fromkeys(LAWS + PROCESSES))
NAMED = pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.kind)


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


def test_there_are_more_than_twenty_kinds_each_with_its_law_and_its_variables():
    kinds = {event.kind for event in (*EVENTS, Patrol, Circle, Floating)}
    assert len(kinds) == len(EVENTS) + 3 >= 25
    for event in EVENTS:
        drawn = event.draw(random.Random(0), "train")
        assert set(drawn.state(times())) == set(event.units) and event.law
        assert set(event.constants) <= set(event.free) and all(hasattr(drawn, name) for name in event.free)


@given(height=st.floats(0.3, 3.0), gravity=st.floats(1.0, 20.0), restitution=st.floats(0.0, 0.9))
@settings(max_examples=60, deadline=None)
def test_the_closed_form_of_bouncing_is_the_stepped_motion(height, gravity, restitution):
    seconds = torch.linspace(0, 2.5, 41, dtype=torch.float64)
    got = bounce_height(seconds, height, gravity, restitution)
    torch.testing.assert_close(got, stepped(seconds, height, gravity, restitution), atol=2e-4, rtol=0)
    assert (got >= 0).all() and got[0] == height


def test_energy_after_each_bounce_falls_by_the_square_of_the_restitution():
    z = bounce_height(torch.linspace(0, 4, 8001, dtype=torch.float64), 2.0, 9.0, 0.65)
    peaks = z[1:-1][(z[1:-1] > z[:-2]) & (z[1:-1] >= z[2:])]
    torch.testing.assert_close(peaks[1:4] / peaks[:3], torch.full((3,), 0.65**2).double(), rtol=1e-3, atol=0)


def test_a_body_thrown_up_is_where_the_parabola_has_it():
    toss = next(e for e in (LAWS[2].draw(random.Random(i), "train") for i in range(9)) if e.lift > 3)
    t = torch.linspace(0, 2 * toss.lift / toss.gravity, 9, dtype=torch.float64)  # up, and down to where it began
    torch.testing.assert_close(toss.state(t)["z"], toss.height + toss.half + toss.lift * t - toss.gravity / 2 * t**2)


@given(speed=st.floats(0.1, 5.0), deceleration=st.floats(0.1, 9.0))
@settings(max_examples=30, deadline=None)
def test_braking_ends_where_the_energy_does(speed, deceleration):
    far = brake(torch.tensor([0.0, 1e3], dtype=torch.float64), speed, deceleration)
    assert far[0] == 0 and abs(far[1].item() - speed**2 / (2 * deceleration)) < 1e-9


def _first(name):
    """The law's right side, as its line says, for kinds of first order: of the event and the state."""
    return {
        "fill": lambda e, s: e.rate * (s < 1),
        "drain": lambda e, s: -1.5 * e.rate * s**0.5,
        "melt": lambda e, s: -e.rate * (s > 0),
        "burn": lambda e, s: -e.rate * (s > 0.02),
        "grow": lambda e, s: 3 * e.rate * (1 - s),
        "inflate": lambda e, s: 1.2 * e.rate * (s < 1.4),
        "cool": lambda e, s: -3 * e.rate * s,
        "dye": lambda e, s: 4 * e.rate * (1 - s),
        "clock": lambda e, s: e.rate + 0 * s,
        "orbit": lambda e, s: e.rate + 0 * s,
    }.get(name)


def _second(name):
    """The same for kinds of second order: of the event, the state and its speed."""
    return {
        "swing": lambda e, s, v: -(e.gravity / e.length + e.DAMPING**2) * s - 2 * e.DAMPING * v,
        "spring": lambda e, s, v: -(e.stiffness + e.DAMPING**2) * (s - e.middle) - 2 * e.DAMPING * v,
        "rise": lambda e, s, v: (9 * e.rate - v) / 0.3,
        "spin": lambda e, s, v: -8 * e.friction * e.side * (v.abs() > 1e-6),
        "slide": lambda e, s, v: -e.friction * e.gravity * e.side * (v.abs() > 1e-6),
    }.get(name)


@NAMED
@pytest.mark.parametrize("seed", range(3))
def test_the_state_obeys_the_law_that_is_written(event, seed):
    e, h = event.draw(random.Random(seed), "train"), 1e-4
    t = torch.linspace(0.05, 3.0, 60, dtype=torch.float64)
    state = {name: torch.stack([e.state(t + d)[name] for d in (-h, 0.0, h)]) for name in event.units}
    s = next(iter(state.values()))
    speed, curve = (s[2] - s[0]) / (2 * h), (s[2] - 2 * s[1] + s[0]) / h**2
    if rate := _first(event.kind):
        kink = (curve.abs() * h > 1e-3) & (speed.abs() < 3)  # the moment at which it is full, empty or reversed
        assert kink.sum() <= 1
        torch.testing.assert_close(speed[~kink], rate(e, s[1])[~kink].double(), atol=1e-3, rtol=1e-3)
    elif force := _second(event.kind):
        assert ((curve - force(e, s[1], speed)).abs() > 1e-3).sum() <= 1  # but for the moment of the stop
    elif event.kind == "traverse":
        assert ((speed.abs() - abs(e.rate)).abs() > 1e-6).sum() <= 3 and s.abs().max() <= e.END + 1e-9
    elif event.kind == "ramp":
        along = torch.hypot(*((state[n][2] - state[n][0]) / (2 * h) for n in ("x", "z")))
        moving = along > 1e-6
        expected = 5 / 7 * e.gravity * math.sin(e.slope) * t
        assert ((along - expected).abs()[moving] > 1e-3).sum() <= 1 and (along.diff()[moving[1:]] > 0).all()
    elif event.kind == "drift":
        falling = s.new_tensor(-0.3 * e.gravity**0.5).expand_as(t)
        dz = (state["z"][2] - state["z"][0]) / (2 * h)
        assert (((dz - falling).abs() > 1e-6) & (dz.abs() > 1e-6)).sum() <= 1
    elif event.kind == "collide":
        mass, other = SIZES[e.size] ** 3, SIZES[e.other_size] ** 3
        v, w = ((state[n][2] - state[n][0]) / (2 * h) for n in ("x", "other_x"))
        torch.testing.assert_close(mass * v + other * w, (mass * e.speed + 0 * v))
        if w[-1] > 0:
            assert abs((w - v)[-1] - e.restitution * e.speed) < 1e-6
        assert (state["other_x"][1] - state["x"][1] >= e.half + SIZES[e.other_size] - 1e-9).all()
    else:
        assert event.kind in ("drop", "throw", "toss")  # tested above


@NAMED
def test_fields_may_be_columns_of_tensors(event):
    """That is how a fit tries thousands of laws at once."""
    e, t = event.draw(random.Random(1), "train"), times(9)
    for name, (low, high) in event.free.items():
        values = torch.linspace(low + 1e-3, high, 4, dtype=torch.float64)
        together = replace(e, **{name: values[:, None]}).state(t)
        for i, value in enumerate(values.tolist()):
            for variable, alone in replace(e, **{name: value}).state(t).items():
                torch.testing.assert_close(together[variable].expand(4, 9)[i], alone.expand(9))


@NAMED
@pytest.mark.parametrize("seed", range(2))
def test_the_body_is_in_view_in_its_colour_and_the_clip_is_the_same_again(event, seed):
    e = event.draw(random.Random(seed), "test")
    seconds = times(5, fps=2.0)
    seen, index = e.frames(seconds), e.scene(seconds).index("body")
    video = e.video(5, fps=2.0)
    assert video.shape == (5, 64, 64, 3) and torch.equal(video, e.video(5, fps=2.0))
    assert ((seen.ids == index).sum((1, 2)) >= 20).sum() >= 4
    if event.shows != "blend":
        for frame in range(5):
            own = seen.rgb[frame][seen.ids[frame] == index].mean(0)
            if not own.isnan().any():
                assert torch.nn.functional.cosine_similarity(own, torch.tensor(COLOURS[e.colour]), dim=0) > 0.95
    assert len(e.backdrop().bodies) < len(e.scene(seconds).bodies)


@pytest.mark.parametrize("kind", ["drop", "throw", "toss", "ramp", "rise", "spring"])
@pytest.mark.parametrize("seed", range(3))
def test_the_body_is_seen_where_the_state_says(kind, seed):
    e = sample_law(random.Random(seed), "train", (kind,))
    seconds = times()
    state, view = e.state(seconds), camera()
    x = state.get("x", torch.full_like(seconds, getattr(e, "x", 0.0) if kind != "spring" else 0.0))
    centre = torch.stack([x, 0 * x, state["z"]], dim=-1)
    local = (centre - view.c2w[0, :3, 3]) @ view.c2w[0, :3, :3]
    fx, fy, cx, cy = view.intrinsics[0]
    column, row = 64 * (fx * local[:, 0] / local[:, 2] + cx), 64 * (fy * local[:, 1] / local[:, 2] + cy)
    ids, index = e.frames(seconds).ids, e.scene(seconds).index("body")
    for frame in range(17):
        if 8 < row[frame] < 56 and 8 < column[frame] < 56:  # wholly in the picture
            rows, columns = (axis.float().mean() + 0.5 for axis in (ids[frame] == index).nonzero(as_tuple=True))
            assert abs(rows - row[frame]) < 1.5 and abs(columns - column[frame]) < 1.5


@NAMED
def test_captions_name_what_is_there_and_never_a_number(event):
    for seed in range(8):
        e = event.draw(random.Random(seed), "test")
        parts = e.parts()
        assert e.colour in e.caption.split() and not any(c.isdigit() for c in e.caption)
        assert e.colour in " ".join(part.text for part in parts if part.needed).split()
        assert all(part.name is None or part.name in part.text for part in parts)
        named = {part.name for part in parts} - {None}
        assert named <= {*PLANETS["test"], *MATERIALS["test"], *SUBSTANCES["test"]}


def test_unknown_kinds_are_refused_and_known_ones_drawn():
    assert {sample_law(random.Random(i)).kind for i in range(300)} == {law.kind for law in LAWS}
    assert {sample_law(random.Random(i), "test", ("drop", "swing")).kind for i in range(20)} == {"drop", "swing"}
    with pytest.raises(InputError, match="juggle"):
        sample_law(random.Random(0), "train", ("juggle",))


def test_the_page_on_worlds_has_the_laws_of_the_code():
    page = (Path(__file__).parents[2] / "docs" / "worlds.md").read_text(encoding="utf-8")
    for event in EVENTS:
        (row,) = (line for line in page.splitlines() if line.startswith(f"| `{event.kind}` |"))
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        suites = [name for name, kinds in (("laws", LAWS), ("interruptions", PROCESSES)) if event in kinds]
        assert cells[1:] == [event.law, ", ".join(event.units), ", ".join(event.constants), ", ".join(suites)]
    for name, constants in (("planets", PLANETS), ("materials", MATERIALS), ("substances", SUBSTANCES)):
        assert f"| {name} | {' | '.join(str(len(constants[split])) for split in SPLITS)} |" in page
