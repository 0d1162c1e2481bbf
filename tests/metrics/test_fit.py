"""The fit alone, from states in closed form: no pixels."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memkit.metrics import Fit, fit_event
from memkit.metrics.fit import law_residual
from memkit.metrics.states import PERIODS
from memkit.worlds import LAWS, Event
from memkit.worlds.event import times
from memkit.worlds.ground import Collide, Slide
from memkit.worlds.interruptions import PROCESSES
from memkit.worlds.mechanisms import Clock, Orbit
from memkit.worlds.pendulums import Spin, Spring, Swing
from memkit.worlds.solids import Drop, Toss
from memkit.worlds.tanks import Fill

KINDS = tuple(dict.fromkeys(LAWS + PROCESSES))
SECONDS = times(17)


def draw(kind: type[Event], seed: int = 0) -> Event:
    return kind.draw(random.Random(f"fit/{kind.kind}/{seed}"), "train")


def fit(event: Event, measured=None, **how) -> Fit:
    found = fit_event(event.state(SECONDS) if measured is None else measured, event, SECONDS, **how)
    assert found is not None
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_an_exact_state_gives_its_constants_back(kind: type[Event]) -> None:
    event = draw(kind)
    found = fit(event)
    assert found.residual < 2e-3
    assert found.constants.keys() == set(kind.constants)
    for name, value in found.constants.items():
        low, high = event.free[name]
        true = float(getattr(event, name))
        assert math.isnan(value) or value == pytest.approx(true, abs=0.003 * (high - low), rel=0.01), name
        assert float(getattr(found.event, name)) == value or math.isnan(value)


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([Drop, Swing, Collide, Spin]),
    st.lists(st.integers(0, 16), max_size=5),
    st.sampled_from([0.0, math.pi, -2 * math.pi]),
)
def test_dropped_and_bad_frames_and_whole_turns_move_little(seed: int, kind: type[Event], lost, turn: float) -> None:
    """Up to five frames are missing, one is wrong; an angle is off by a whole period."""
    event = draw(kind, seed)
    measured = {name: value.clone() for name, value in event.state(SECONDS).items()}
    for value in measured.values():
        if period := PERIODS.get(kind.shows):
            value += period * round(turn / period) + (period if turn else 0)
        value[lost] = torch.nan
        value[8] += 0.3
    found = fit(event, measured)
    name = kind.constants[0]
    low, high = event.free[name]
    if not math.isnan(found.constants[name]):
        assert found.constants[name] == pytest.approx(float(getattr(event, name)), abs=0.01 * (high - low), rel=0.02)


def test_it_is_the_same_each_time() -> None:
    event = draw(Drop)
    assert fit(event).constants == fit(event).constants


def test_nothing_of_what_it_seeks_is_known_to_it() -> None:
    event = draw(Drop, 1)
    wrong = replace(event, gravity=1.0, restitution=0.9, height=0.3, x=-2.0)
    assert fit(event).constants == fit(wrong, event.state(SECONDS)).constants


@pytest.mark.parametrize(
    ("kind", "field", "factor"), [(Drop, "gravity", 1.5), (Fill, "rate", 2.0), (Spring, "stiffness", 2)]
)
def test_the_wrong_constant_leaves_more_over(kind: type[Event], field: str, factor: float) -> None:
    event = draw(kind, 2)
    state = event.state(SECONDS)
    right, wrong = (
        law_residual(state, e, SECONDS) for e in (event, replace(event, **{field: factor * getattr(event, field)}))
    )
    assert right is not None and wrong is not None
    assert right < 2e-3 and wrong > 10 * right


def test_a_start_alone_may_vary() -> None:
    event = draw(Toss, 3)
    found = fit(event, vary=("height", "x"))
    assert found.constants["gravity"] == event.gravity and found.event.lift == event.lift  # pyright: ignore
    assert found.event.height == pytest.approx(event.height, abs=0.01)  # pyright: ignore


def test_a_constant_that_shows_nowhere_is_not_a_number() -> None:
    floating = replace(draw(Drop), gravity=0.5, height=3.0)
    found = fit(floating)
    assert found.constants["gravity"] == pytest.approx(0.5, abs=0.02) and math.isnan(found.constants["restitution"])
    resting = replace(draw(Slide), speed=0.0, x=0.0)
    assert math.isnan(fit(resting).constants["friction"])


@pytest.mark.parametrize(("kind", "rate"), [(Clock, -0.9), (Orbit, 2.2)])
def test_angles_come_round(kind: type[Event], rate: float) -> None:
    event = replace(draw(kind), rate=rate)
    wrapped = {
        name: torch.remainder(value + math.pi, 2 * math.pi) - math.pi for name, value in event.state(SECONDS).items()
    }
    assert fit(event, wrapped).constants["rate"] == pytest.approx(rate, abs=0.01)


@pytest.mark.parametrize(("lost", "fitted"), [(5, True), (6, False), (17, False)])
def test_a_third_of_the_frames_may_be_missing(lost: int, fitted: bool) -> None:
    event = draw(Fill)
    state = {"level": event.state(SECONDS)["level"].clone()}
    state["level"][:lost] = torch.nan
    assert (fit_event(state, event, SECONDS) is not None) == fitted == (law_residual(state, event, SECONDS) is not None)
