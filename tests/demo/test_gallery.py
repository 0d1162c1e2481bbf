"""The demo's gallery: panels come back right with memory and by chance without, also as its videos show them."""

from __future__ import annotations

import json

import pytest

from memkit.demo.gallery import KNOWN, gallery_clip, gallery_figures
from memkit.errors import InputError
from memkit.video import read_video
from memkit.worlds.event import FPS, NUM_FRAMES
from memkit.worlds.gallery_scores import score_chunk

SEEDS = (100, 101, 102, 103)  # other galleries than those of the published figures


def test_panels_come_back_with_memory_and_not_without(tmp_path):
    figures = gallery_figures(SEEDS, tmp_path / "gallery", steps=6)
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    with_memory, without = (figures["mean"][f"{name} memory"]["returned"] for name in ("with", "without"))
    assert with_memory > 0.6 and without < 0.4 and with_memory > without + 0.4
    assert {row["gallery"] for row in figures["seeds"].values()} == {gallery_clip(seed).source for seed in SEEDS}
    files = {path.name for path in (tmp_path / "gallery").iterdir()}
    kinds = ("truth", "with-memory", "without-memory")
    assert files == {"sheet.png", *(f"{seed}-{kind}.mp4" for seed in SEEDS for kind in kinds)}
    for seed in SEEDS[:1]:
        video = read_video(tmp_path / "gallery" / f"{seed}-with-memory.mp4").frames
        shown = score_chunk(gallery_clip(seed), FPS, video, KNOWN, NUM_FRAMES).returned
        assert shown == pytest.approx(figures["seeds"][str(seed)]["with memory"]["returned"], abs=0.15)


def test_no_seeds_and_no_steps_are_refused(tmp_path):
    with pytest.raises(InputError, match="no seeds"):
        gallery_figures((), tmp_path)
    with pytest.raises(InputError, match="steps"):
        gallery_figures((0,), tmp_path, steps=0)
