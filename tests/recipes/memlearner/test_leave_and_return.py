"""Leave-and-return in galleries: what its scores know, and the page that the command writes."""

from __future__ import annotations

import dataclasses
from itertools import accumulate

import pytest
import torch

from memkit.backbones import VideoFormat
from memkit.cameras import yaw_degrees
from memkit.errors import InputError
from memkit.evaluation import read_rows
from recipes.memlearner.gallery_scores import WITHOUT
from recipes.memlearner.presets import PRESETS
from recipes.memlearner.scores import truth
from recipes.memlearner.studies import leave_and_return as study

FORM = VideoFormat(5, 64, 64, 2.0)


@pytest.mark.parametrize("schedule", study.SCHEDULES)
def test_the_camera_leaves_the_first_view_and_comes_back_to_it(schedule):
    frames, cameras = truth(study.clip_of("test-00003", schedule, FORM), FORM)
    assert torch.equal(frames[0], frames[-1]) and len(frames) == 17
    assert yaw_degrees(cameras)[::4] == pytest.approx([0.0, *accumulate(study.SCHEDULES[schedule])], abs=1e-3)
    lost = torch.cat([frames[:-1], frames[8:9]])  # at half time it looks the other way
    row = study.score(schedule, study.clip_of("test-00003", schedule, FORM), FORM, lost, frames)
    assert row.psnr < 20 and row.panels < 1


def test_a_held_frame_has_the_best_return_and_shows_itself_on_the_way():
    clip, other = (study.clip_of(f"test-0000{i}", "rot360_4chunk", FORM) for i in (3, 4))
    real, strange = truth(clip, FORM)[0], truth(other, FORM)[0]
    still, right, wrong = (study.score("x", clip, FORM, v, real) for v in (real[:1].expand_as(real), real, strange))
    assert still.psnr == right.psnr == 100 and still.mse == 0 and still.panels == right.panels == 1
    assert still.way < 15 and right.way > 100
    assert wrong.psnr < 20 and wrong.panels < 0.7


def test_the_command_writes_its_page_and_nothing_else_of_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, "SCHEDULES", {"turn360": (360.0,)})
    config = dataclasses.replace(PRESETS["gallery"](), device="cpu", sampling_steps=1)
    page = tmp_path / "page.md"
    page.write_text(f"before {study.BEGIN} old {study.END} after\n")
    command = study.Returns(config, rooms=1, to=tmp_path / "to", page=page)
    assert study.main(command) == 0
    rows = read_rows(tmp_path / "to" / "returns.jsonl", study.ReturnRow)
    names = ("", WITHOUT, *(f" / {control}" for control in study.CONTROLS))
    assert {condition for condition, _ in rows} == {f"turn360{name}" for name in names}
    text = page.read_text()
    assert text.startswith(f"before {study.BEGIN}\n") and text.endswith(f"{study.END} after\n") and "old" not in text
    for name in ("with memory", "without memory", study.DIFFERENCE, *study.CONTROLS):
        assert f"| {name} |" in text
    page.write_text("no place")
    with pytest.raises(InputError, match="lacks"):
        study.write_page(page, {}, command)
