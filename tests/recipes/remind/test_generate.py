"""ReMind's generation: from images and videos, with prompts, camera paths and interruptions."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from memkit.cameras import Cameras, latent_cameras, read_poses, write_poses
from memkit.errors import InputError
from memkit.video import read_video
from recipes.remind import generate


def test_generate_from_an_image_with_prompts_and_keys(config, picture, capsys) -> None:
    command = generate.Generate(config, image=picture, prompts=("a tank", "a tank fills"), keys="right-2, left-4")
    assert generate.main(command) == 0
    assert "3 chunks, conditioned on 1 latent frame" in capsys.readouterr().out
    video, poses = read_video(config.out / "generated.mp4"), read_poses(config.out / "generated.poses.npz")
    assert len(video.frames) == len(poses.c2w) == 25 and (config.out / "generated.png").exists()
    poses = latent_cameras(poses)
    assert (
        len(poses.c2w) == 7
        and not torch.allclose(poses.c2w[0], poses.c2w[2])
        and torch.allclose(poses.c2w[0], poses.c2w[4])
    )
    write_poses(config.out / "frames.npz", Cameras(poses.c2w[:1].repeat(10, 1, 1), poses.intrinsics[:1].repeat(10, 1)))
    posed = dataclasses.replace(command, keys=None, poses=config.out / "frames.npz", prompts=("a tank",))
    assert generate.main(posed) == 0 and len(read_video(config.out / "generated.mp4").frames) == 4 * 3 + 1


def test_generate_goes_on_from_a_video_past_its_length(config, picture) -> None:
    command = generate.Generate(
        dataclasses.replace(config, cache_frames=6), video=picture, conditioning_latents=6, prompts=("a tank",),
        chunks=8, read="packed", read_frames=3, to=config.out / "long.mp4",
    )  # fmt: skip
    assert generate.main(command) == 0
    assert len(read_video(config.out / "long.mp4").frames) == 4 * 21 + 1


def test_generate_with_an_interruption(config, picture) -> None:
    command = generate.Generate(
        config, image=picture, prompts=("a tank",), event="lights-off", event_chunks=(2, 4), to=config.out / "dark.mp4"
    )
    assert generate.main(command) == 0
    plain = dataclasses.replace(command, event=None, event_chunks=None, to=config.out / "light.mp4")
    assert generate.main(plain) == 0
    dark, light = (read_video(config.out / f"{name}.mp4").frames.float() for name in ("dark", "light"))
    assert len(dark) == len(light) == 49
    torch.testing.assert_close(dark[:12], light[:12], rtol=0, atol=3)
    assert (dark[16:34] - light[16:34]).abs().mean() > 3


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"image": None}, "one of --image and --video"),
        ({"prompts": ()}, "--prompts"),
        ({"prompts": ("a",) * 9}, "9 prompts for 5 chunks"),
        ({"keys": "w-1", "poses": Path("x.npz")}, "one of --keys"),
        ({"event": "fog"}, "go together"),
        ({"event": "look-away", "event_chunks": (2, 3), "keys": "w-1"}, "turns the camera itself"),
        ({"event": "fog", "event_chunks": (3, 5)}, "--event-chunks 3 5"),
        ({"event": "fog", "event_chunks": (0, 2)}, "--event-chunks 0 2"),
        ({"chunks": 1}, "make more chunks"),
    ],
)
def test_bad_requests_are_told(config, picture, changes, told) -> None:
    command = dataclasses.replace(generate.Generate(config, image=picture, prompts=("a tank",)), **changes)
    with pytest.raises(InputError, match=told):
        generate.main(command)
