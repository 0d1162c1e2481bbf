"""A long video from one frame and a camera path, chunk by chunk, with the memory of a trained run.

    python -m recipes.memlearner.generate --preset tiny --room test-00000 --keys "right-20, left-20"
    python -m recipes.memlearner.generate --preset wan2.1-1.3b --image room.png --prompt "a room" --poses walk.npz

The path is keys or a pose file, one pose a frame (docs/poses.md); it is held at its end until the last chunk is whole.
Any number of chunks: ``--budget`` bytes of latents are remembered at most. The video is written anew after each chunk,
with its poses beside it, so that what was made is there when a run is stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor
from tqdm import tqdm

from memkit.cameras import Cameras
from memkit.errors import InputError
from memkit.keys import cameras_from_keys
from memkit.pose_files import read_poses, write_poses
from memkit.rollout import Rollout
from memkit.video import first_frame, write_video
from memkit.worlds.paths import FOV_DEGREES
from memkit.worlds.paths import Path as WalkedPath
from memkit.worlds.rooms import Room, RoomClip
from recipes.camera_paths import held, level_camera
from recipes.commands import run_command
from recipes.memlearner.methods import load_method
from recipes.memlearner.presets import Command, parse
from recipes.memlearner.train import load_backbone
from recipes.training import pick_device


@dataclass(frozen=True)
class Generate(Command):
    """The command line."""

    room: str | None = None
    """Begin with the first view of this room of the rooms world, such as test-00000-dynamic."""
    image: Path | None = None
    """Begin with this picture, or the first frame of this video."""
    keys: str | None = None
    """Camera path: "w-3, right-20, left-20", counted in latent frames."""
    poses: Path | None = None
    """Camera path: a pose file with one pose a frame."""
    fov_degrees: float = FOV_DEGREES
    """Of the picture, across; keys need it."""
    prompt: str = ""
    """For all chunks."""
    noise_seed: int = 42
    """Of the first chunk; they count up."""
    to: Path | None = None
    """The video; by default OUT/generated.mp4."""


def main(command: Generate) -> int:
    """Generate; the exit code."""
    config = command.config
    if (command.room is None) == (command.image is None) or (command.keys is None) == (command.poses is None):
        raise InputError("Give one of --room and --image, and one of --keys and --poses.")
    backbone = load_backbone(config, pick_device(config.device), config.out)
    method, form = load_method(config, backbone, config.out / "method").eval(), backbone.video_format
    frame, start = first_view(command, form.height, form.width)
    stride = backbone.pipeline().vae.config.scale_factor_temporal
    if command.keys is not None:
        cameras = cameras_from_keys(command.keys, start, frames_per_latent=stride)
    else:
        assert command.poses is not None
        cameras = read_poses(command.poses)
    cameras = held(cameras, form.num_frames - 1)
    rollout = Rollout(
        backbone, method, budget=config.budget, steps=config.sampling_steps, guidance_scale=config.guidance_scale
    )
    rollout.saw(frame[None, None], Cameras(cameras.c2w[None, :1], cameras.intrinsics[None, :1]))
    file, frames = command.to or config.out / "generated.mp4", [frame[None]]
    chunks = (len(cameras.c2w) - 1) // (form.num_frames - 1)
    for chunk in tqdm(range(chunks), desc="chunks"):
        part = slice(chunk * (form.num_frames - 1), (chunk + 1) * (form.num_frames - 1) + 1)
        at = Cameras(cameras.c2w[None, part], cameras.intrinsics[None, part])
        frames.append(rollout.make([command.prompt], at, [command.noise_seed + chunk])[0, 1:])
        write_video(file, torch.cat(frames), form.fps)
    write_poses(file.with_suffix(".npz"), cameras)
    held_mb, gone = rollout.history.nbytes / 1e6, rollout.history.dropped
    print(f"{file}: {chunks} chunks; {held_mb:.1f} MB of latents remembered, {gone} latent frames forgotten")
    return 0


def first_view(command: Generate, height: int, width: int) -> tuple[UInt8[Tensor, "{height} {width} 3"], Cameras]:
    """The frame to begin with, and a camera for it."""
    if command.room is not None:
        if height != width:
            raise InputError(f"Rooms are rendered square, the model makes {width}×{height}; give --image.")
        room = Room.named(command.room)
        clip = RoomClip(room, WalkedPath(room.start), 0.0, 1.0)
        cameras = clip.cameras(1)
        return clip.video(1, size=height)[0], Cameras(cameras.c2w[0], cameras.intrinsics[0])
    assert command.image is not None
    return first_frame(command.image, height, width)[0], level_camera(height, width, command.fov_degrees)


if __name__ == "__main__":
    run_command(lambda: main(parse(Generate, __doc__)))
