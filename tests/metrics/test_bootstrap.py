"""The bootstrap: coverage, pairing, and its edges."""

from __future__ import annotations

import math

import numpy as np
import pytest

from memkit.errors import InputError
from memkit.metrics import bootstrap, bootstrap_runs, correlation


def test_the_interval_of_a_mean_covers_it_about_as_often_as_stated() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        interval = bootstrap(np.mean, rng.normal(3.0, 2.0, size=40), resamples=200)
        inside += interval.low <= 3.0 <= interval.high
    assert 0.87 <= inside / 200 <= 0.99


def test_columns_are_drawn_together() -> None:
    x = np.random.default_rng(1).normal(size=30)
    assert bootstrap(correlation, x, 2 * x) == pytest.approx((1.0, 1.0, 1.0))


def test_the_same_seed_gives_the_same_interval() -> None:
    x = np.random.default_rng(2).normal(size=30)
    assert bootstrap(np.mean, x, seed=3) == bootstrap(np.mean, x, seed=3) != bootstrap(np.mean, x, seed=4)


def test_a_higher_level_is_wider() -> None:
    x = np.random.default_rng(2).normal(size=30)
    narrow, wide = bootstrap(np.mean, x, level=0.5), bootstrap(np.mean, x, level=0.99)
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_one_run_is_the_plain_bootstrap() -> None:
    x, y = np.random.default_rng(3).normal(size=(2, 25))
    assert bootstrap_runs(correlation, x[None], y[None]) == bootstrap(correlation, x, y)


def test_runs_that_differ_widen_the_interval_and_the_same_prompts_are_drawn_in_all() -> None:
    prompts = np.random.default_rng(4).normal(size=50)
    apart = prompts + np.array([[-3.0], [0.0], [3.0]])
    alike, wide = bootstrap_runs(np.mean, np.stack([prompts] * 3)), bootstrap_runs(np.mean, apart)
    plain = bootstrap(np.mean, prompts)
    assert alike.high - alike.low == pytest.approx(plain.high - plain.low, rel=0.1)
    assert wide.value == pytest.approx(alike.value) and wide.low < -1.5 and wide.high > 1.5


def test_what_was_not_measured_is_left_out_in_pairs() -> None:
    x = np.array([[1.0, 2.0, np.nan], [3.0, 4.0, 5.0]])
    y = np.array([[1.0, np.nan, 9.0], [3.0, 4.0, 5.0]])
    assert bootstrap_runs(lambda a, b: float(np.abs(a - b).max()), x, y) == (0, 0, 0)
    assert bootstrap_runs(lambda a, b: float(len(a)), x, y).value == 4
    assert all(math.isnan(v) for v in bootstrap_runs(np.mean, np.full((2, 3), np.nan)))
    for bad in (np.ones(3), np.ones((2, 2))):
        with pytest.raises(InputError, match=r"\[runs, items\]"):
            bootstrap_runs(correlation, np.ones((2, 3)), bad)


def test_edges() -> None:
    assert all(math.isnan(v) for v in bootstrap(np.mean, np.array([])))
    assert bootstrap(np.mean, np.array([2.0])) == (2.0, 2.0, 2.0)
    assert math.isnan(correlation(np.ones(5), np.arange(5.0)))
    with pytest.raises(InputError, match="one length"):
        bootstrap(correlation, np.ones(3), np.ones(4))
    with pytest.raises(InputError, match="level"):
        bootstrap(np.mean, np.ones(3), level=1.0)
