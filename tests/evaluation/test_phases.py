"""Phases of MemoBench: the bounds of exit and re-entry, and the pairs of frames."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memkit.errors import InputError
from memkit.evaluation.benchmarks.phases import Phases, pairs, phases_of, read_phases


@st.composite
def clips(draw: st.DrawFn) -> tuple[Phases, int, int]:
    count = draw(st.integers(3, 300))
    exits = draw(st.integers(1, count - 2))
    return Phases(exits, draw(st.integers(exits + 1, count - 1))), count, draw(st.integers(6, 300))


@settings(max_examples=50)
@given(clips())
def test_every_generated_frame_is_compared_once_within_its_phase(case: tuple[Phases, int, int]) -> None:
    clip, count, length = case
    video, found = phases_of(clip, count, length), pairs(*case)
    assert 2 <= video.exits <= length - 4 and video.exits + 2 <= video.reenters <= length - 1
    assert [own for matched in found.values() for own, _ in matched] == list(range(length))
    ends = {"V": (0, clip.exits - 1), "D": (clip.exits, clip.reenters - 1), "R": (clip.reenters, count - 1)}
    for name, matched in found.items():
        true = [i for _, i in matched]
        assert true == sorted(true) and true[0] == ends[name][0]
        assert true[-1] == ends[name][1] or len(true) == 1  # ends are inclusive
        n, (s, e) = len(true), ends[name]
        assert all(abs(i - (s + k * (e - s) / max(1, n - 1))) <= 0.5 for k, i in enumerate(true))


@given(st.integers(2, 50), st.integers(2, 50), st.integers(2, 50))
def test_a_video_of_the_length_of_the_clip_is_compared_frame_by_frame(v: int, d: int, r: int) -> None:
    length = v + d + r
    found = pairs(Phases(v, v + d), length, length)
    assert [pair for matched in found.values() for pair in matched] == [(i, i) for i in range(length)]


def test_tables_are_read_by_their_columns_and_bad_rows_are_named(tmp_path: Path) -> None:
    synthetic, real = tmp_path / "a.csv", tmp_path / "b.csv"
    synthetic.write_text("video_folder,exits,re-enter,skip\nForest/Forest_001,30,90,\nForest_002,,,1\n")
    real.write_text("id,exit,reenter\n7,3.0,9\n")
    assert read_phases([synthetic, real]) == {
        "Forest_001": Phases(30, 90), "Forest_002": Phases(0, 0, True), "007": Phases(3, 9)
    }  # fmt: skip
    for content, message in (("id,exit\n7,3\n", "line 2.*columns"), ("id,exit,reenter\n7,9,3\n", "line 2.*ascending"),
                             ("id,exit,reenter\n7,x,3\n", "line 2.*numbers")):  # fmt: skip
        real.write_text(content)
        with pytest.raises(InputError, match=message):
            read_phases([real])
    with pytest.raises(InputError, match="re-enters at frame 9 of 9"):
        pairs(Phases(3, 9), 9, 20)
