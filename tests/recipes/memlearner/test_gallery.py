"""The gallery suite: what its scores know, and the commands on it."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from memkit.errors import InputError
from memkit.evaluation import read_rows
from memkit.files.checksums import verify_sums
from memkit.worlds.gallery import PALETTE, Gallery
from memkit.worlds.gallery_tours import GalleryClip, GalleryTour
from recipes.memlearner import __main__, evaluate, generate, ship
from recipes.memlearner.gallery_scores import WITHOUT, GalleryRow, score
from recipes.memlearner.presets import PRESETS
from tests.helpers.smoke_runs import smoke_run

FRAMES, CHUNK = 65, 17


def clip_of(name: str, shift: int = 0) -> GalleryClip:
    """A tour; with ``shift`` of a gallery whose colours are others at the same places."""
    clip = GalleryTour(name, 4, 2.0).part(0)
    colours = [PALETTE[(PALETTE.index(panel.colour) + shift) % 8] for panel in clip.gallery.panels]
    panels = [dataclasses.replace(p, colour=c) for p, c in zip(clip.gallery.panels, colours, strict=True)]
    return dataclasses.replace(clip, gallery=dataclasses.replace(clip.gallery, panels=tuple(panels)))


def video_of(clip: GalleryClip) -> torch.Tensor:
    """Every fourth frame, four times: those in between are not read."""
    return clip.video(17, 2.0).repeat_interleave(4, dim=0)[:FRAMES]


def scored(video: torch.Tensor, known: int, real: torch.Tensor, name: str = "test-00001-dynamic") -> GalleryRow:
    return score("truth", clip_of(name), 8.0, video, real, known, CHUNK)


def test_the_truth_is_right_and_other_colours_are_wrong():
    real, other = (video_of(clip_of("test-00001-dynamic", shift)) for shift in (0, 3))
    row = scored(real, 49, real)
    assert (row.returned, row.given, row.again, row.figure) == (1.0, 1.0, 1.0, 1.0) and row.figure_degrees < 1
    last = torch.cat([real[:49], other[49:]])
    wrong = scored(last, 49, real)
    assert (wrong.returned, wrong.given, wrong.again) == (0.0, 0.0, 0.0) and wrong.psnr < 25
    # a video that invents colours and keeps them is wrong, and like itself
    own = scored(other, 1, real)
    assert (own.returned, own.again) == (0.0, 1.0)


def test_what_the_given_frame_shows_is_not_returned():
    """A still of the given frame has its panels right at most; a black chunk has none and no figure."""
    real = video_of(clip_of("test-00004"))
    still = scored(torch.cat([real[:49], real[48:49].expand(16, -1, -1, -1)]), 49, real, "test-00004")
    assert still.returned < 0.6
    black = scored(torch.cat([real[:49], torch.zeros_like(real[49:])]), 49, real, "test-00004")
    assert math.isnan(black.figure) and black.psnr < still.psnr
    first = scored(real, 1, real, "test-00004")  # only the panels of the first frame were seen for sure
    assert first.returned == 1.0 and (first.new == 1.0 or math.isnan(first.new))


def test_the_commands_run_on_galleries(random_folder, tmp_path, capsys):
    few = ("--preset", "gallery", "--batch", "1", "--steps", "1", "--train-videos", "1", "--video-chunks", "2")
    config = smoke_run(__main__, random_folder, tmp_path, *few)
    assert evaluate.main(evaluate.Evaluate(config, rooms=1, keep=1)) == 0
    rows = read_rows(tmp_path / "measured.jsonl", GalleryRow)
    assert {id for _, id in rows} == {"test-00000", "test-00001-dynamic"}  # other galleries, not the same one twice
    assert {condition for condition, _ in rows} == {a + b for a in ("truth", "revisit") for b in ("", WITHOUT)}
    assert "window / without the past" in capsys.readouterr().out
    flags = {"name": "tiny-gallery", "to": tmp_path / "shipped"}
    with pytest.raises(InputError, match="Give --trained-by"):
        ship.main(ship.Ship(config, **flags))
    assert ship.main(ship.Ship(config, rooms=1, keep=0, trained_by="train --now", machine="a machine", **flags)) == 0
    verify_sums(tmp_path / "shipped")
    card = (tmp_path / "shipped" / "README.md").read_text()
    assert "`train --now`" in card and "on a machine" in card and "| the past in the sequence" in card
    elsewhere = dataclasses.replace(config, out=tmp_path / "elsewhere", banks=tmp_path)
    walk = generate.Generate(elsewhere, room="test-00000", keys="right-1")
    with pytest.raises(InputError, match=r"no trained transformer in .*elsewhere; run this recipe's train first"):
        generate.main(walk)
    assert generate.main(dataclasses.replace(walk, weights=str(tmp_path / "shipped"))) == 0
    assert (elsewhere.out / "generated.mp4").exists()
    assert Gallery.named("test-00001-dynamic").ring_hash != Gallery.named("test-00000").ring_hash


def test_a_gallery_is_a_setting_of_the_rows(random_folder, tmp_path):
    config = dataclasses.replace(PRESETS["tiny"](), suite="gallery")
    assert PRESETS["tiny"]().suite == "rooms" and evaluate._suite(evaluate.Evaluate(config)) == {"suite": "gallery"}
    assert evaluate._suite(evaluate.Evaluate(PRESETS["tiny"]())) == {}
