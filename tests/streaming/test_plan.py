"""Videos as planned: chunks, prompts and cameras, what is given, and what interrupts the view."""

from __future__ import annotations

import pytest
import torch

from memkit.cameras import Cameras
from memkit.errors import InputError
from memkit.interruptions import interrupt_still
from memkit.streaming import VideoPlan
from tests.helpers.streams import FAST, cameras, seeded, stream


def path_of(frames: int) -> Cameras:
    many = cameras(frames)
    return Cameras(many.c2w[0], many.intrinsics[0])


def plan(given: int = 1, path: int = 9, **more) -> VideoPlan:
    return VideoPlan.of(seeded(1, 16, given, 4, 4), ["a", "b"], path_of(path), 1, 2, **more)


def test_a_plan_is_as_long_as_its_path_or_as_asked_for() -> None:
    whole = plan()
    assert whole.spans == [(0, 1), (1, 3), (3, 5), (5, 7), (7, 9)] and whole.prompts == ["a", "b", "b", "b", "b"]
    assert torch.equal(whole.cameras.c2w, cameras(9).c2w[0])
    longer = plan(path=4, chunks=4)
    assert longer.spans == whole.spans[:4]
    assert torch.equal(longer.cameras.c2w[3:], cameras(4).c2w[0, -1:].expand(4, 4, 4))  # held
    assert plan(path=1, latents=6).spans == whole.spans[:4]


def test_what_cannot_be_planned_is_refused() -> None:
    with pytest.raises(InputError, match="make more chunks"):
        plan(given=3, chunks=2)
    with pytest.raises(InputError, match="2 prompts for 1 chunks"):
        plan(given=0, chunks=1)
    for chunks in ((0, 2), (1, 5), (3, 3), (2, 1)):
        with pytest.raises(InputError, match="cannot be interrupted"):
            plan().with_interruption("fog", *chunks, 8.0)


def test_a_camera_that_looks_away_turns_the_path_and_comes_back() -> None:
    plain, away = plan(), plan().with_interruption("look-away", 2, 4, 8.0)
    turned = (plain.cameras.c2w - away.cameras.c2w).abs().amax((1, 2)) > 1e-6
    assert turned[3:7].any() and not turned[:3].any() and not turned[7:].any()
    assert torch.equal(plain.cameras.c2w[:, :3, 3], away.cameras.c2w[:, :3, 3])


def sampled(plan: VideoPlan, backbone) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """The video, and the latents that each chunk was given."""
    own, given = stream(backbone, FAST, seeds=(1,)), []
    generate = own.generate
    own.generate = lambda prompts, latents, frames: given.append(latents) or generate(prompts, latents, frames)
    return plan.sample(own), given


def test_what_is_given_comes_back_and_so_does_an_interruption(backbone) -> None:
    clean = seeded(1, 16, 1, 4, 4)
    light = VideoPlan.of(clean, ["a"], path_of(9), 1, 2, chunks=4)
    dark = light.with_interruption("lights-off", 2, 3, 8.0)
    (a, plain), (b, given) = sampled(light, backbone), sampled(dark, backbone)
    assert a.shape == b.shape == (25, 32, 32, 3) and torch.equal(a[:9], b[:9]) and not torch.equal(a[9:], b[9:])
    assert torch.equal(plain[0], clean) and plain[1:] == [None] * 3
    assert torch.equal(given[0], clean) and given[1] is given[3] is None
    over = interrupt_still("lights-off", b[8], 8, 8.0).video[1:9]  # the last frame before it, held and darkened
    whole = torch.cat([b[:9], over]).movedim(-1, 0)[None].float() / 127.5 - 1
    torch.testing.assert_close(given[2], backbone.encode_video(whole)[:, :, -2:])
