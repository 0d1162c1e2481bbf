"""Interrupted clips with cameras, captions that tell of the interruption, and an interrupted still."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from memkit.cameras import Cameras
from memkit.interruptions import (
    KINDS,
    InterruptionName,
    LightsOff,
    LookAway,
    Occluder,
    Phases,
    interrupt,
    interrupt_posed,
    interrupt_still,
)
from memkit.interruptions.timing import frames_of


@pytest.mark.parametrize("event", ["occluder", "lights-off", "look-away", "camera-loop", "camera-off", "fog"])
def test_an_interruption_is_given_over_the_last_frame(event) -> None:
    frame = torch.randint(1, 256, (32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    clip = interrupt_still(event, frame, 24, 8.0)
    differ = (clip.video != frame).flatten(1).any(1)
    assert clip.spans.degraded == (1, 25) and differ[2:24].all() and not differ[0] and not differ[25:].any()


def test_every_kind_has_a_name_and_tells_of_itself() -> None:
    assert [kind.NAME for kind in KINDS] == list(get_args(InterruptionName))
    told = {kind().caption("a cat. ") for kind in KINDS}
    assert len(told) == len(KINDS) and all(caption.startswith("a cat while ") for caption in told)
    assert Occluder(look="curtain").caption("a cat") == "a cat while a curtain hides the view"


def clip(frames: int) -> torch.Tensor:
    return torch.randint(0, 256, (frames, 16, 24, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_a_virtual_camera_turns_the_given_one_and_has_its_field_of_view() -> None:
    frames, count = clip(49), 49
    walk = torch.eye(4).repeat(count, 1, 1)
    walk[:, 0, 3] = torch.arange(count)
    cameras = Cameras(walk, torch.tensor([0.8, 1.2, 0.5, 0.5]).expand(count, 4))
    (shown, turned), (twin, own) = interrupt_posed(frames, cameras, 8.0, LookAway())
    alone = interrupt(frames, 8.0, LookAway(fov_degrees=2 * torch.tensor(0.5 / 0.8).atan().rad2deg().item()))
    assert torch.equal(shown, alone.video) and torch.equal(twin, alone.twin)
    assert torch.equal(own.c2w, walk) and torch.equal(turned.c2w[:, :3, 3], walk[:, :3, 3])
    torch.testing.assert_close(turned.c2w[:, :3, :3], alone.c2w[:, :3, :3])
    torch.testing.assert_close(turned.intrinsics[0, 0].item(), 0.8 / LookAway().keep, rtol=1e-5, atol=0.0)
    assert torch.equal(turned.intrinsics, own.intrinsics)


def test_other_kinds_leave_the_cameras_and_unknown_ones_stand_still() -> None:
    frames = clip(49)
    (shown, turned), (twin, own) = interrupt_posed(frames, None, 8.0, LightsOff())
    assert torch.equal(twin, frames) and not torch.equal(shown, frames)
    for cameras in (turned, own):
        assert torch.equal(cameras.c2w, torch.eye(4).expand(49, 4, 4)) and not cameras.intrinsics.any()


@pytest.mark.parametrize("kind", KINDS)
def test_phases_are_the_latent_frames_that_the_amount_says(kind) -> None:
    amount = kind().timing.amount(81)
    phases = Phases.of(amount)
    assert not amount[frames_of((0, phases.start))].any() and not amount[frames_of((phases.clear, 21))].any()
    assert amount[frames_of((phases.start, phases.start + 1))].any()
    peak = amount.max()
    assert amount[frames_of((0, phases.stop))][-1] == peak  # hidden to its last frame
    assert (amount[frames_of((phases.stop, phases.stop + 1))][-1] < peak).all()  # the next one is not
    assert (amount[frames_of((phases.stop + 1, 21))] < peak).all()
    joined = [i for f in range(21) for i in range(81)[frames_of((f, f + 1))]]
    assert joined == list(range(81))
