"""The plan of packed frames, and the pooling that follows it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memkit.errors import InputError
from memkit.injectors.frame_context import plan_frames
from memkit.injectors.frame_context.packing import Group, Plan, checked_packing, fill_edges, pool_frames, pool_table

FRAMEPACK = ((1, 1), (2, 2), (16, 4))
levels = st.tuples(st.integers(1, 3), st.integers(1, 4)).map(lambda level: (level[0] * level[1], level[1]))
packings = st.lists(levels, max_size=4).map(tuple)


@given(st.integers(0, 30), packings, st.booleans())
def test_every_kept_frame_is_in_one_group_and_the_newest_are_kept(frames, packing, keep_start) -> None:
    plan = plan_frames(frames, packing, keep_start)
    members = [frame for group in plan.groups for frame in dict.fromkeys(group.frames)]
    assert members == sorted(set(members)) == list(plan.kept)  # once each, in order
    assert plan.left_out == frames - len(members)
    start = 1 if keep_start and packing and frames else 0
    assert list(plan.kept) == [*range(start), *range(start + plan.left_out, frames)]
    room = sum(count for count, _ in packing) + start
    assert len(members) == (min(frames, room) if packing else frames)


@given(st.integers(0, 30), packings, st.booleans())
def test_groups_have_the_size_of_their_level_newest_first(frames, packing, keep_start) -> None:
    plan = plan_frames(frames, packing, keep_start)
    assert all(len(group.frames) == group.scale for group in plan.groups)
    newest_first = list(reversed(plan.groups))
    if keep_start and packing and frames:
        assert newest_first.pop() == Group(1, (0,))
        frames -= 1
    for count, scale in packing or ((frames, 1),):
        held = min(count, frames)
        level, newest_first = newest_first[: -(-held // scale)], newest_first[-(-held // scale) :]
        assert all(group.scale == scale for group in level)
        assert sum(len(set(group.frames)) for group in level) == held
        for i, group in enumerate(level):  # only the oldest may repeat, and then its oldest frame
            repeats = scale - len(set(group.frames))
            assert group.frames[: repeats + 1] == (group.frames[0],) * (repeats + 1)
            assert repeats == 0 or i == len(level) - 1
        frames -= held
    assert not newest_first


def test_the_plan_of_framepack() -> None:
    plan = plan_frames(21, FRAMEPACK, keep_start=True)
    assert plan.left_out == 1 and plan.kept == (0, *range(2, 21))
    assert plan.groups[0] == Group(1, (0,)) and plan.groups[-2:] == (Group(2, (18, 19)), Group(1, (20,)))
    assert plan.groups[1:-2] == tuple(Group(4, tuple(range(i, i + 4))) for i in (2, 6, 10, 14))
    assert plan.tokens(30, 52) == (1560, 104, 104, 104, 104, 390, 1560)  # 480×832; 30 / 4 rows are filled to 8
    assert plan_frames(4, FRAMEPACK).groups == (Group(4, (0, 0, 0, 0)), Group(2, (1, 2)), Group(1, (3,)))
    assert plan_frames(2, FRAMEPACK).groups == (Group(2, (0, 0)), Group(1, (1,)))


@given(st.integers(1, 30), packings.filter(bool), st.booleans())
def test_averages_and_runs_belong_to_the_kept_frames(frames, packing, keep_start) -> None:
    plan = plan_frames(frames, packing, keep_start)
    of_kept = plan.of_kept()
    assert of_kept.kept == tuple(range(len(plan.kept))) and of_kept.left_out == 0
    values = torch.randn(2, frames, 3)
    expected = torch.stack([values[:, list(group.frames)].mean(1) for group in plan.groups], dim=1)
    torch.testing.assert_close(pool_frames(values[:, list(plan.kept)], of_kept), expected)
    runs = plan.runs()
    assert [frame for _, run in runs for frame in run] == [frame for group in plan.groups for frame in group.frames]
    assert all(len(run) % scale == 0 for scale, run in runs)
    assert all(a[0] != b[0] for a, b in zip(runs, runs[1:], strict=False))


@settings(max_examples=40)
@given(st.integers(1, 9), packings, st.booleans(), st.integers(1, 5), st.integers(1, 5))
def test_a_pooled_table_is_the_average_over_the_cells(frames, packing, keep_start, height, width) -> None:
    plan = plan_frames(frames, packing, keep_start).of_kept()
    kept = len(plan.kept)
    table = torch.randn(1, kept * height * width, 1, 3, generator=torch.Generator().manual_seed(frames))
    cells = table.reshape(kept, height, width, 3)
    expected = []
    for group in plan.groups:
        s = group.scale
        for i in range(0, height, s):
            for j in range(0, width, s):
                rows, columns = (
                    [min(n, size - 1) for n in range(at, at + s)] for at, size in ((i, height), (j, width))
                )
                expected.append(torch.stack([cells[f, r, c] for f in group.frames for r in rows for c in columns]))
    pooled = pool_table(table, plan, height, width)
    assert pooled.shape[1] == sum(plan.tokens(height, width)) == len(expected)
    torch.testing.assert_close(pooled[0, :, 0], torch.stack([cell.mean(0) for cell in expected]))


def test_at_scale_one_the_table_is_itself() -> None:
    table = torch.randn(1, 3 * 4, 1, 6)
    assert torch.equal(pool_table(table, plan_frames(3, ()), 2, 2), table)
    assert torch.equal(pool_table(table, plan_frames(3, ((5, 1),)), 2, 2), table)


def test_edges_repeat_the_last_row_and_column() -> None:
    x = torch.arange(6.0).reshape(2, 3)
    assert fill_edges(x, 2, 3) is x
    assert fill_edges(x, 3, 2).tolist() == [[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5]]


@pytest.mark.parametrize("level", [(1,), (0, 1), (2, 0), (3, 2), (1.0, 1), (2, 2, 2), (True, 1), (-2, 1)])
def test_a_level_that_is_none_is_named(level) -> None:
    with pytest.raises(InputError, match="multiple of the scale"):
        checked_packing(((1, 1), level))


def test_levels_become_tuples() -> None:
    assert checked_packing([[1, 1], [4, 2]]) == ((1, 1), (4, 2))
    assert plan_frames(0, FRAMEPACK, keep_start=True) == plan_frames(0, ()) == Plan((), 0)
