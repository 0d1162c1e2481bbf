"""Schedules of noise levels per frame: against diffusers' own, and draws against their exact probabilities."""

from __future__ import annotations

from collections import Counter
from itertools import combinations_with_replacement, product

import pytest
import torch
from diffusers import SkyReelsV2DiffusionForcingPipeline

from memkit.errors import InputError
from memkit.generation import draw_independent, draw_monotone, draw_partitions, lagged, staircase, synchronous

seeded = torch.Generator().manual_seed


@pytest.mark.parametrize(("frames", "steps", "lag"), [(1, 4, 2), (5, 4, 0), (5, 6, 2), (4, 3, 3), (6, 5, 1)])
def test_lagged_is_the_step_matrix_of_skyreels(frames, steps, lag):
    matrix = SkyReelsV2DiffusionForcingPipeline.generate_timestep_matrix
    _, index, changed, _ = matrix(None, frames, torch.arange(steps, 0, -1), frames, ar_step=lag)  # type: ignore[arg-type]
    ours = lagged(frames, steps, lag)
    assert torch.equal(ours[1:].clamp(max=steps), index.clamp(max=steps))
    assert torch.equal(ours[1:] != ours[:-1], changed)


@pytest.mark.parametrize("lag", [0, 1, 3, 5])
def test_each_frame_takes_each_step_once_behind_the_one_before(lag):
    table = lagged(4, 5, lag)
    assert (table[0] == 0).all() and (table[-1] == 5).all()
    assert set((table[1:] - table[:-1]).flatten().tolist()) <= {0, 1}
    gap = table[:, :-1] - table[:, 1:]
    assert (gap >= 0).all() and (gap <= lag).all()
    assert len(table) == 5 + 1 + 3 * lag


def test_synchronous_and_staircase():
    assert synchronous(3, 2, given=[1]).tolist() == [[0, 2, 0], [1, 2, 1], [2, 2, 2]]
    assert staircase(4, 1, 4).tolist() == [3, 2, 1, 0]
    assert staircase(3, 2, 6).tolist() == [4, 4, 2, 2, 0, 0]


def test_monotone_draws_have_the_probabilities_of_their_definition():
    """One frame and its level uniformly, and the rest uniformly among all ways to complete it."""
    frames, levels, n = 3, 3, 6000
    ways = list(combinations_with_replacement(range(levels), frames))
    expected = Counter()
    for f, t in product(range(frames), range(levels)):
        fitting = [way for way in ways if way[f] == t]
        expected.update(dict.fromkeys(fitting, 1 / (frames * levels * len(fitting))))
    generator = seeded(0)
    found = Counter(tuple(draw_monotone(frames, levels, generator).tolist()) for _ in range(n))
    assert found.keys() <= set(ways)
    for way in ways:
        assert found[way] / n == pytest.approx(expected[way], abs=4 * (expected[way] / n) ** 0.5)


def test_independent_and_partitioned_draws():
    generator = seeded(0)
    draws = [draw_independent(4, 1000, 0.2, generator) for _ in range(400)]
    share = sum(len(set(draw.tolist())) > 1 for draw in draws) / len(draws)
    assert share == pytest.approx(0.2, abs=0.08)
    chunks = torch.stack([draw_partitions(3, 2, 10, generator) for _ in range(300)])
    assert torch.equal(chunks[:, 0], chunks[:, 1])
    spans = [(int(chunks[:, i].min()), int(chunks[:, i].max())) for i in (0, 2, 4)]
    assert spans == [(0, 2), (3, 5), (6, 9)]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: lagged(2, 4, 5),
        lambda: lagged(0, 4, 1),
        lambda: synchronous(3, 2, given=[3]),
        lambda: staircase(3, 1, 4),
        lambda: draw_monotone(2, 0),
        lambda: draw_independent(2, 10, 1.5),
        lambda: draw_partitions(4, 1, 3),
    ],
)
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(InputError):
        wrong()
