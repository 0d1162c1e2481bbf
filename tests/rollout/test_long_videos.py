"""Long videos in a bank: chunks share a frame, are added once, and come back as a history."""

from __future__ import annotations

import random

import pytest
import torch

from memkit.backbones import WanCodec
from memkit.banks import MemoryBank
from memkit.cameras import Cameras
from memkit.rollout.long_videos import Chunk, ChunkIndex, LongVideos, add_video, chunk_id, frames_id, name_of
from tests.helpers.pose_files import cameras


@pytest.fixture(scope="module")
def codec(random_folder) -> WanCodec:
    return WanCodec.from_pretrained(random_folder)


def chunks(count: int, posed: bool = True) -> list[Chunk]:
    """Chunks of 9 frames that share a frame with the next."""
    length = 8 * count + 1
    video = torch.randint(0, 256, (length, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    path = cameras(length)
    parts = [slice(8 * i, 8 * i + 9) for i in range(count)]
    return [
        Chunk(video[p], f"chunk {i}", Cameras(path.c2w[p], path.intrinsics[p]) if posed else None)
        for i, p in enumerate(parts)
    ]


@pytest.fixture(scope="module")
def bank(codec, tmp_path_factory) -> MemoryBank:
    with MemoryBank.create(tmp_path_factory.mktemp("videos") / "bank") as bank:
        add_video(bank, "walk", chunks(3), codec, dtype=torch.float32)
    return bank


def test_a_frame_alone_is_encoded_alone(bank, codec) -> None:
    assert bank.ids == [f("walk", i) for i in range(3) for f in (chunk_id, frames_id)]
    assert {name_of(id) for id in bank.ids} == {"walk"} == set(bank.sources)
    before, after = (bank.clip(frames_id("walk", i)) for i in (0, 1))
    assert torch.equal(before.latents[:, -1], after.latents[:, 0])  # they share a frame, and it knows no other
    video = chunks(3)[0].frames
    image = video[4:5].movedim(-1, 0)[None].float() / 127.5 - 1
    torch.testing.assert_close(before.latents[:, 1], codec.encode_video(image)[0, :, 0])


def test_an_interrupted_video_is_completed(bank, codec, tmp_path) -> None:
    with MemoryBank.create(tmp_path / "bank") as part:
        add_video(part, "walk", chunks(3)[:1], codec, dtype=torch.float32)
        assert LongVideos(part).counts == {"walk": 1}
        add_video(part, "walk", chunks(3), codec, dtype=torch.float32)
    assert part.fingerprint == bank.fingerprint and LongVideos(part).counts == {"walk": 3}


@pytest.mark.parametrize("keeps", ["chunks", "frames"])
def test_the_past_is_what_came_before(bank, keeps) -> None:
    history = LongVideos(bank).history([ChunkIndex("walk", 2, 2)], keeps)
    target = bank.clip(chunk_id("walk", 2))
    assert target.cameras is not None and history.cameras is not None
    assert torch.equal(history.cameras.c2w[0, -1], target.cameras.c2w[0])  # its last frame is the chunk's first
    assert history.times == ((0, 1, 2, 2, 3, 4) if keeps == "chunks" else (0, 1, 2, 3, 4))
    assert not len(LongVideos(bank).history([ChunkIndex("walk", 2, 0)], keeps))


def test_cameras_are_given_where_all_are_known_and_wanted(bank, codec, tmp_path) -> None:
    ids = [chunk_id("walk", i) for i in range(2)]
    latents, seen = LongVideos(bank).chunks(ids)
    assert latents.dtype == torch.float32 and latents.shape == (2, 16, 3, 4, 4)
    assert seen is not None and seen.c2w.shape == (2, 3, 4, 4)
    assert LongVideos(bank, posed=False).chunks(ids)[1] is None
    with MemoryBank.create(tmp_path / "bank") as unposed:
        add_video(unposed, "walk", chunks(1, posed=False), codec)
    assert LongVideos(unposed).chunks([chunk_id("walk", 0)])[1] is None


def test_a_chunk_that_is_drawn_has_its_past(bank) -> None:
    drawn = {LongVideos(bank).draw(past, random.Random(seed)) for past in range(3) for seed in range(20)}
    assert drawn == {ChunkIndex("walk", index, past) for past in range(3) for index in range(past, 3)}
