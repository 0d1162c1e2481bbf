"""Tours in parts and looks back: functions of the name, the same with people and without."""

from __future__ import annotations

import math

import pytest
import torch

from memkit.worlds.tours import RoomTour, has_people, look_back, room_names


def test_names_take_turns() -> None:
    assert room_names("train", 3) == ["train-00000", "train-00001-dynamic", "train-00002"]
    both = room_names("test", 4, both=True)
    assert both == ["test-00000", "test-00000-dynamic", "test-00001", "test-00001-dynamic"]
    assert [has_people(name) for name in both] == [False, True] * 2


@pytest.mark.parametrize("name", ["test-00004", "train-00011"])
def test_parts_follow_each_other_and_people_change_no_path(name) -> None:
    quiet, busy = (RoomTour(each, 3, 2.0) for each in (name, f"{name}-dynamic"))
    for i in range(3):
        a, b = (tour.part(i).cameras(17, 8.0).c2w for tour in (quiet, busy))
        assert torch.equal(a, b) and bool(busy.part(i).room.movers) and not quiet.part(i).room.movers
        if i:
            assert torch.equal(a[0], quiet.part(i - 1).cameras(17, 8.0).c2w[-1])


def test_a_look_back_ends_where_it_began() -> None:
    turns = []
    for name in room_names("test", 8):
        clip = look_back(name, 2.0)
        frames = int(clip.path.duration * 8) + 1
        c2w = clip.cameras(frames, 8.0).c2w
        forward = c2w[:, :3, 2]
        turns.append(math.degrees((forward @ forward[0]).clamp(-1, 1).acos().max().item()))
        torch.testing.assert_close(c2w[-1], c2w[0], atol=1e-6, rtol=0)
        assert torch.equal(c2w[:, :3, 3], c2w[:1, :3, 3].expand(frames, 3))
    assert min(turns) > 89 and max(turns) < 181 and len(set(turns)) > 2
