"""Galleries: the same by name, no panels of one split in another, read exactly from pixels."""

from __future__ import annotations

import dataclasses
import math
import random

import pytest
import torch

from memkit.errors import InputError
from memkit.video.pixels import to_uint8
from memkit.worlds import render
from memkit.worlds.constants import COLOURS, SPLITS
from memkit.worlds.gallery import DISTANCE, FIGURE_DISTANCE, GALLERY_FOV, PALETTE, Gallery, ring_hash, split_of
from memkit.worlds.gallery_scores import (
    UNSEEN,
    read_colours,
    read_direction,
    true_colours,
    true_direction,
    views,
)
from memkit.worlds.gallery_tours import OUTING_SECONDS, GalleryClip, GalleryTour
from memkit.worlds.paths import Path, Turn, Walk
from memkit.worlds.tours import room_names

NAMES = [f"{split}-{i:05d}-dynamic" for i, split in enumerate(SPLITS * 4)]
GALLERIES = [Gallery.named(name) for name in NAMES]


def tour(name: str) -> GalleryClip:
    return GalleryTour(name, 4, 2.0).part(0)


def test_a_gallery_is_its_name_and_the_figure_changes_nothing_else():
    random.seed(1)  # the common generator has no say
    assert [Gallery.named(name) for name in reversed(NAMES)] == GALLERIES[::-1]
    for gallery in GALLERIES:
        still = Gallery.named(gallery.name.removesuffix("-dynamic"))
        assert still == dataclasses.replace(gallery, name=still.name, figure=None) and gallery.figure


@pytest.mark.parametrize("name", ["train-1", "prod-00001", "train-00001-moving", "x train-00001", "train-00001\n"])
def test_names_of_no_gallery(name):
    with pytest.raises(InputError, match="names are like"):
        Gallery.named(name)


def test_no_panels_of_the_test_galleries_are_in_training():
    """By their hashes, over the names that the recipe uses; and for any name, as the ring decides the split."""
    counts = {"train": 200, "memory": 40, "test": 64}
    hashes = {split: {Gallery.named(name).ring_hash for name in room_names(split, n)} for split, n in counts.items()}
    assert {split: len(found) for split, found in hashes.items()} == counts
    assert not (hashes["train"] & hashes["test"] or hashes["train"] & hashes["memory"])
    for gallery in GALLERIES:
        ring = tuple((panel.colour, panel.shape) for panel in gallery.panels)
        assert split_of(ring) == gallery.name.split("-")[0]
        assert len({ring_hash((*ring[i:], *ring[:i])) for i in range(8)}) == 1
        assert ring_hash((("red", "disc"), *ring[1:])) != ring_hash((("blue", "disc"), *ring[1:]))


@pytest.mark.parametrize("name", ["test-00000", "test-00001-dynamic"])
def test_parts_follow_each_other_and_the_panels_come_back(name):
    parts = [GalleryTour(name, 4, 2.0).part(i) for i in range(4)]
    for before, after in zip(parts, parts[1:], strict=False):
        assert torch.equal(before.cameras().c2w[-1], after.cameras().c2w[0])
    assert parts[0].path.duration == pytest.approx(OUTING_SECONDS)
    twin = GalleryTour(f"{name.removesuffix('-dynamic')}-dynamic", 4, 2.0).part(3)
    assert torch.equal(twin.cameras().c2w, parts[3].cameras().c2w)


def test_tours_of_many_kinds_end_with_the_first_panels_and_stay_within_the_ring():
    steps = 0
    for i in range(24):
        clip = tour(f"train-{i:05d}")
        pose = clip.path.pose(torch.arange(65.0) / 8)
        away = torch.rad2deg((pose[:, 2] - pose[0, 2]).abs())
        assert 89 < away.max() < 361 and min(away[-1], 360 - away[-1]) < 1e-6
        assert pose[:, :2].norm(dim=1).max() < 1.5
        steps += any(isinstance(move, Walk) and move.metres for move in clip.path.segments)
    long = GalleryTour("train-00000", 16, 2.0).part(0).path
    assert 0 < steps < 12 and sum(isinstance(m, Walk) and m.metres > 0 for m in long.segments) <= 1


def test_captions_tell_the_camera_alone():
    told = {GalleryTour(name, 4, 2.0).part(i).motion for name in NAMES for i in range(4)}
    words = {word.strip(",") for caption in told for word in caption.split()}
    assert words <= {"turning", "left", "right", "standing", "walking", "then", "in", "a", "gallery"}
    assert "standing in a gallery" in told and len(told) > 4


def test_panels_have_their_colour_from_everywhere():
    for name in ("test-00003", "test-00004-dynamic"):
        clip = tour(name)
        at, video = views(clip, range(0, 65, 4), 8.0, 64), clip.video(17, 2.0)
        found = read_colours(video, at)
        assert bool(((found == true_colours(clip.gallery)) | (found == UNSEEN)).all())
        assert (found != UNSEEN).any(0).sum() >= 5 and not torch.equal(at.readable, at.panels > 0)
        frame = at.middles[0].sum((1, 2)).argmax()
        pixels = video[0][at.middles[0, frame]]
        exact = to_uint8(torch.tensor(COLOURS[PALETTE[true_colours(clip.gallery)[frame]]]))
        assert torch.equal(pixels.median(0).values, exact)


def test_readings_come_from_the_video():
    """Another gallery at the same places is read as what it shows."""
    clip = tour("test-00000")
    turned = [dataclasses.replace(p, colour=PALETTE[(PALETTE.index(p.colour) + 3) % 8]) for p in clip.gallery.panels]
    other = GalleryClip(dataclasses.replace(clip.gallery, panels=tuple(turned)), clip.path, 0.0)
    at = views(clip, range(0, 17, 4), 8.0, 64)
    found, true = read_colours(other.video(5, 2.0), at), true_colours(clip.gallery)
    assert bool((found == torch.where(at.readable, (true + 3) % 8, UNSEEN)).all()) and (found != UNSEEN).any()


def test_a_curtain_hides_its_panel_from_the_middle_and_not_from_aside():
    gallery = next(g for i in range(40) if (g := Gallery.named(f"test-{i:05d}")).curtains)
    (curtain,) = gallery.curtains
    number = min(range(8), key=lambda i: abs(gallery.panels[i].angle - curtain.angle))
    bare = dataclasses.replace(gallery, pillars=())
    side = curtain.angle + math.pi / 2
    counts = []
    for shift in (0.0, 2.0):
        eye = shift * math.cos(side), shift * math.sin(side)
        to = math.atan2(DISTANCE * math.sin(curtain.angle) - eye[1], DISTANCE * math.cos(curtain.angle) - eye[0])
        counts.append(views(GalleryClip(bare, Path((*eye, to)), 0.0), [0], 8.0, 64).panels[0, number].item())
    assert counts[0] < 30 and counts[1] > 4 * counts[0] + 60


def test_the_figure_moves_at_its_pace_while_unseen_and_is_found_in_pixels():
    gallery = Gallery.named("test-00001-dynamic")
    figure = gallery.figure
    assert figure is not None
    gallery = dataclasses.replace(gallery, pillars=(), curtains=(), yaw=figure.start)
    away = Path((0.0, 0.0, figure.start)).then(Turn(180.0, 60.0), Turn(-180.0, 60.0))
    clip = GalleryClip(gallery, away, 0.0)
    at, video = views(clip, range(0, 49, 4), 8.0, 64), clip.video(13, 2.0)
    wanted, found = true_direction(at), read_direction(video, at)
    assert torch.equal(wanted.isnan(), found.isnan()) and 2 < wanted.isnan().sum() < 10
    assert (wanted - found)[~wanted.isnan()].abs().max() < 1.0
    # turned back after six seconds, it stands where its pace has brought it: to the left is a negative direction
    assert wanted[-1].item() == pytest.approx(-math.degrees(6.0 * figure.rate), abs=1.5)
    assert figure.position(torch.tensor([6.0]))[0, :2].norm().item() == pytest.approx(FIGURE_DISTANCE)


def test_depth_is_that_of_the_panels():
    gallery = dataclasses.replace(GALLERIES[0], pillars=(), curtains=(), figure=None)
    path = Path((0.0, 0.0, gallery.panels[2].angle))
    seen = render(gallery.scene(torch.zeros(1)), path.cameras(torch.zeros(1), GALLERY_FOV), 65, 65)
    assert seen.ids[0, 30, 32] == 2
    height = (32.5 - 30.5) / 65 * 2  # of the ray at a distance of 1; the field of view is 90°
    wanted = (DISTANCE - 0.06) * math.hypot(1.0, height)
    assert seen.depth[0, 30, 32].item() == pytest.approx(wanted, abs=1e-3)
