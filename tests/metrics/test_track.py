"""The body's outline against the renderer's own ids, and against what generators do to colours and edges."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from memkit.metrics import track_body
from memkit.metrics.track import hue_of
from memkit.video import to_uint8
from memkit.worlds import LAWS, Event, render
from memkit.worlds.event import camera, times
from memkit.worlds.ground import Collide
from memkit.worlds.interruptions import PROCESSES
from memkit.worlds.pendulums import Drift, Spin, Swing
from memkit.worlds.processes import Cool, Rise
from memkit.worlds.solids import Drop, Throw
from memkit.worlds.tanks import Dye, Fill

KINDS = tuple(dict.fromkeys(LAWS + PROCESSES))


def draw(kind: type[Event], seed: int) -> Event:
    return kind.draw(random.Random(f"track/{kind.kind}/{seed}"), ("train", "memory", "test")[seed % 3])


def spoilt(video: Tensor, seed: int = 0) -> Tensor:
    """Blurred, of another cast, and noisy: rather worse than what comes out of an autoencoder at 31 dB."""
    generator = torch.Generator().manual_seed(seed)
    soft = avg_pool2d(video.float().permute(0, 3, 1, 2) / 255, 3, 1, 1, count_include_pad=False)
    cast = 0.08 * (2 * torch.rand(1, 3, 1, 1, generator=generator) - 1)
    noisy = soft + cast + 0.03 * torch.randn(soft.shape, generator=generator)
    return to_uint8(noisy.clamp(0, 1)).permute(0, 2, 3, 1).contiguous()


def empty(event: Event, frames: int = 5) -> Tensor:
    return to_uint8(render(event.backdrop(), camera(), 64, 64).rgb).repeat(frames, 1, 1, 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_video_on_a_gpu_gives_the_same_track() -> None:
    event = draw(Drop, 0)
    video = event.video(4, 3.0)
    for a, b in zip(track_body(video.cuda(), event), track_body(video, event), strict=True):
        assert torch.equal(a.nan_to_num(-1.0), b.nan_to_num(-1.0))


@pytest.mark.parametrize("kind", [Drop, Throw, Swing, Spin, Drift, Rise, Fill])
def test_area_and_centre_are_those_of_the_rendered_ids(kind: type[Event]) -> None:
    event, seconds = draw(kind, 0), times(4, 3.0)
    fine = event.frames(seconds, 320).ids == event.scene(seconds).index("body")
    area = fine.double().mean((1, 2))
    middle = (torch.arange(320) + 0.5) / 320
    u = (fine.double().mean(1) * middle).sum(1) / fine.double().mean(1).sum(1)
    v = (fine.double().mean(2) * middle).sum(1) / fine.double().mean(2).sum(1)
    track = track_body(event.video(4, 3.0), event)
    assert track.found.all() and track.whole.all()
    assert (track.centre - torch.stack([u, v], -1)).norm(dim=-1).max() < 0.005
    assert (track.area / area - 1).abs().max() < 0.15  # a small ball has a dark rim on its far side
    edges = fine.any(1).int().argmax(1) / 320, fine.any(2).int().argmax(1) / 320
    if kind in (Drop, Drift, Fill):  # what is no box has no straight edges
        assert (track.box[:, :2] - torch.stack(edges, -1)).abs().max() < 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_a_spoilt_clip_has_the_body_where_the_clear_one_has_it(kind: type[Event]) -> None:
    event = draw(kind, 1)
    video = event.video(5, 2.0)
    clear, bad = track_body(video, event), track_body(spoilt(video), event)
    assert clear.found.all() and bad.found.all()
    assert hue_of(clear, event) == event.colour == hue_of(bad, event)
    assert (clear.centre - bad.centre).norm(dim=-1).mean() < 0.01


def test_a_cast_over_the_whole_frame_changes_neither_place_nor_colour() -> None:
    for event in (draw(Drop, 2), draw(Cool, 2)):
        video = event.video(3, 4.0).clamp(0, 230)
        plain, cast = track_body(video, event), track_body(video + torch.tensor([20, 0, 12], dtype=torch.uint8), event)
        assert (plain.centre - cast.centre).abs().max() < 0.002
        assert (plain.colour - cast.colour).abs().max() < 0.01


def test_a_smaller_ghost_does_not_draw_the_centre() -> None:
    event = replace(draw(Drop, 3), size="large", x=-1.0)
    video = event.video(5, 4.0)
    haunted = video.clone()
    haunted[:, 8:13, 52:57] = video[0][video[0].int().sub(video[-1].int()).abs().sum(-1).argmax() // 64, 0]
    haunted[:, 8:13, 52:57] = torch.tensor([int(255 * c) for c in event.scene(times(1)).bodies[-1].colour[0]]).byte()
    assert (track_body(video, event).centre - track_body(haunted, event).centre).abs().max() < 1e-3


def test_one_body_of_a_pair_at_a_time() -> None:
    event = replace(draw(Collide, 0), colour="orange", other_colour="yellow")  # the nearest two hues
    video = event.video(5, 2.0)
    first, second = track_body(video, event), track_body(video, event, "yellow")
    assert (first.centre[:, 0] < second.centre[:, 0] - 0.05)[first.found & second.found].all() and first.found.all()


def test_what_the_frame_cuts_off_is_not_whole() -> None:
    event = replace(draw(Rise, 0), start=4.2, rate=0.0)
    track = track_body(event.video(2), event)
    assert track.found.all() and not track.whole.any()


@pytest.mark.parametrize("kind", [Drop, Spin, Fill, Cool, Dye])
def test_nothing_is_found_where_there_is_no_body(kind: type[Event]) -> None:
    event = draw(kind, 4)
    noise = torch.randint(0, 256, (5, 64, 64, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    for video in (empty(event), spoilt(empty(event)), noise, torch.zeros_like(noise)):
        track = track_body(video, event)
        assert not track.found.any()
        assert all(value.isnan().all() for value in (track.area, track.centre, track.box, track.axis, track.colour))


@pytest.mark.parametrize("size", [32, 96, 128])
def test_numbers_do_not_depend_on_the_size(size: int) -> None:
    event = draw(Swing, 5)
    small, other = (track_body(event.video(3, 2.0, size=s), event) for s in (64, size))
    assert (small.centre - other.centre).abs().max() < 0.01
    assert (small.area / other.area - 1).abs().max() < 0.1


def test_a_wide_frame_of_few_pixels_is_read_in_shares() -> None:
    event = draw(Throw, 6)
    video = event.video(3, 2.0)
    wide = interpolate(video.permute(0, 3, 1, 2).float(), (64, 128), mode="nearest").permute(0, 2, 3, 1).byte()
    assert (track_body(wide, event).centre - track_body(video, event).centre).abs().max() < 0.01
