"""What is hidden, what is not, and that the process goes on all the same."""

import dataclasses
import random
import re

import pytest
import torch

from memkit.worlds import sample_interruption
from memkit.worlds.event import caption_of, times
from memkit.worlds.interruptions import KINDS, NUM_FRAMES, PROCESSES, Interrupted, Interruption

T = times(NUM_FRAMES)
EACH = pytest.mark.parametrize("by", KINDS)


@EACH
@pytest.mark.parametrize("seed", range(2))
def test_nothing_is_seen_while_hidden_and_the_twin_before_and_after(by, seed):
    clip = sample_interruption(random.Random(seed), "train", by)
    hidden, clear = clip.by.hidden(T), clip.by.amount(T) == 0
    assert hidden.sum() >= 8 and (clear & clip.by.recovered(T)).sum() >= 4 and not (hidden & clear).any()
    whole, twin = clip.video(), clip.twin()
    assert torch.equal(whole[clear], twin[clear])
    if by in ("lights-off", "camera-off"):
        assert whole[hidden].max() <= (11 if by == "lights-off" else 0)
    else:
        ids = clip.frames(T[hidden]).ids
        assert not (ids == clip.scene(T[:1]).index("body")).any()
    assert (twin[hidden].int() - twin[hidden][:1].int()).abs().max() > 20  # it changed unseen


@EACH
def test_amount_rises_and_falls_once(by):
    clip = sample_interruption(random.Random(3), "train", by)
    fine = torch.linspace(0, 6, 601, dtype=torch.float64)
    amount = clip.by.amount(fine)
    assert amount.min() == 0 and amount.max() == 1
    rising = amount.diff().sign()
    turns = rising[rising != 0].diff().ne(0).sum()
    assert turns == 1
    assert torch.equal(clip.by.recovered(fine), fine >= clip.by.stop)


def test_a_window_is_captioned_by_what_it_shows():
    clip = sample_interruption(random.Random(5), "train", "occluder")
    before = " ".join(part.text for part in clip.parts(0.0, clip.by.start - 0.1))
    during = " ".join(part.text for part in clip.parts(0.0, clip.by.start + 0.5))
    assert before == clip.event.caption and during == clip.caption == before + " while a board slides past"
    window = clip.video(9, start=2.0)
    assert torch.equal(window, clip.video()[16:25])


def test_scene_captions_tell_no_process_and_no_rate():
    by, verbs = Interruption("lights-off", 1.5, 3.5), r"\w+s\b|glow|hot|full|empty"
    told: dict[str, set[str]] = {}
    for kind in PROCESSES:
        for seed in range(6):
            split = "train" if seed % 2 else "test"
            event = dataclasses.replace(kind.draw(random.Random(seed), split), colour="red", place="in a lab")
            clip = Interrupted(event, by)
            told.setdefault(kind.kind, set()).add(caption_of(clip.parts(0.0, 1.0, "scene")))
            hidden = caption_of(clip.parts(captions="scene"))
            assert hidden == caption_of(clip.parts(0.0, 1.0, "scene")) + " while the light goes out and on again"
    assert all(len(captions) == 1 for captions in told.values())  # whatever its substance, rate and start
    assert told["fill"] == told["drain"] == told["dye"] == {"a tank of red liquid in a lab"}
    assert told["melt"] == told["cool"] == {"a red block in a lab"}
    assert not any(re.search(verbs, caption) for captions in told.values() for caption in captions)


def test_the_camera_turns_about_its_own_place():
    cameras = sample_interruption(random.Random(0), "train", "look-away").cameras(T)
    assert torch.equal(cameras.c2w[:, :3, 3], cameras.c2w[:1, :3, 3].expand(NUM_FRAMES, 3))
    forward = cameras.c2w[:, :3, 2]
    angle = torch.rad2deg((forward @ forward[0]).clamp(-1, 1).acos())
    assert angle.max() > 60 and angle[0] == angle[-1] == 0
