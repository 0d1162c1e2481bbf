"""Generate a long video from one frame and a camera path, chunk by chunk, with the memory of a trained run.

    python -m recipes.memlearner.generate --preset tiny --room test-00000 --keys "right-20, left-20"
    python -m recipes.memlearner.generate --preset tiny --room test-00000 --keys -
    python -m recipes.memlearner.generate --preset wan2.1-1.3b --image room.png --prompt "a room" --poses walk.npz

The path is keys or a pose file with one pose per frame (docs/poses.md); its last camera is held until the last chunk is
complete. With ``--keys -``, keys are read line by line, and the video of a line is generated before the next line is
read; a line without keys is reported and skipped. The video may be of any length: at most ``--budget`` bytes of latents
are remembered, and frames are written as they are generated, so that a command that is stopped leaves the video so far.
The poses are written at the end.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor
from tqdm import tqdm

from memkit.backbones import WanBackbone
from memkit.cameras import (
    Cameras,
    cameras_from_keys,
    hold_last_camera,
    level_camera,
    poses_file,
    read_poses,
    write_poses,
)
from memkit.display import counted, size_of
from memkit.errors import InputError
from memkit.rollout import Rollout
from memkit.training import find_trained, load_backbone, report_done, run_command
from memkit.video import VideoWriter, first_frame
from memkit.worlds.gallery_tours import GalleryTour
from memkit.worlds.paths import FOV_DEGREES
from memkit.worlds.paths import Path as WalkedPath
from memkit.worlds.rooms import Room, RoomClip
from recipes.memlearner.methods import load_method
from recipes.memlearner.presets import SHIPPED, Command, parse


@dataclass(frozen=True)
class Generate(Command):
    """The command line."""

    room: str | None = None
    """Room (or gallery, see --suite) with whose first view to begin, such as test-00000-dynamic."""
    image: Path | None = None
    """Picture to begin with, or a video of which the first frame is used."""
    keys: str | None = None
    """Camera path as keys with a number of latent frames each, such as "w-3, right-20"; "-" reads lines of keys."""
    poses: Path | None = None
    """Camera path as a pose file with one pose per frame."""
    fov_degrees: float = FOV_DEGREES
    """Horizontal field of view of the picture, for --keys."""
    prompt: str = ""
    """Prompt of all chunks."""
    noise_seed: int = 42
    """Seed of the first chunk's noise; each chunk adds 1."""
    to: Path | None = None
    """File of the video; by default OUT/generated.mp4."""
    weights: str | None = None
    """Folder of a trained run, or name of weights that memkit ships (memlearner-tiny); by default OUT."""


def main(command: Generate) -> int:
    """Generate a video. Returns the exit code."""
    config = command.config
    if (command.room is None) == (command.image is None) or (command.keys is None) == (command.poses is None):
        raise InputError("Give one of --room and --image, and one of --keys and --poses.")
    trained = find_trained(config.out, command.weights, SHIPPED)
    backbone = load_backbone(config, trained=trained)
    method, form = load_method(config, backbone, trained / "method").eval(), backbone.video_format
    frame, start = first_view(command, form.height, form.width)
    rollout = Rollout(
        backbone,
        method,
        budget=config.budget,
        steps=config.sampling_steps,
        guidance_scale=config.guidance_scale,
        annotation=config.annotations[0],
    )
    file, seen = command.to or config.out / "generated.mp4", []
    file.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(file, form.fps) as video:
        for chunk, cameras in enumerate(tqdm(chunks(command, start, backbone), desc="chunks")):
            if not chunk:
                first = Cameras(cameras.c2w[:, :1], cameras.intrinsics[:, :1])
                rollout.observe(frame[None, None], first)
                video.add(frame[None])
                seen.append(first)
            video.add(rollout.generate([command.prompt], cameras, [command.noise_seed + chunk])[0, 1:])
            seen.append(Cameras(cameras.c2w[:, 1:], cameras.intrinsics[:, 1:]))
    if not seen:
        raise InputError("No keys were given; write some, such as right-5.")
    whole = Cameras(torch.cat([at.c2w[0] for at in seen]), torch.cat([at.intrinsics[0] for at in seen]))
    write_poses(poses_file(file), whole)
    made, held = counted(len(seen) - 1, "chunk"), size_of(rollout.history.nbytes)
    gone = counted(rollout.history.dropped, "latent frame")
    print(f"{made}; {held} of latents remembered, {gone} forgotten; the poses are beside the video")
    report_done(file)
    return 0


def chunks(command: Generate, start: Cameras, backbone: WanBackbone) -> Iterator[Cameras]:
    """The cameras [1,T] of each chunk, which begins with the last camera of the previous one."""
    for path in paths(command, start, backbone):
        stride = backbone.video_format.num_frames - 1
        whole = hold_last_camera(path, stride)
        for i in range(0, len(whole.c2w) - 1, stride):
            yield Cameras(whole.c2w[None, i : i + stride + 1], whole.intrinsics[None, i : i + stride + 1])


def paths(command: Generate, start: Cameras, backbone: WanBackbone) -> Iterator[Cameras]:
    """The whole path, or one piece per line of keys, which begins where the previous piece ended."""
    if command.poses is not None:
        yield read_poses(command.poses)
        return
    assert command.keys is not None
    interactive, stride = command.keys == "-", backbone.pipeline().vae.config.scale_factor_temporal
    for number, line in enumerate(_lines_of_input() if interactive else [command.keys], 1):
        if not line.strip():
            continue
        try:
            path = cameras_from_keys(line.strip(), start, frames_per_latent=stride)
        except InputError as error:
            if not interactive:
                raise
            tqdm.write(f"line {number} of the keys is left out: {error}", file=sys.stderr)
        else:
            start = Cameras(path.c2w[-1], path.intrinsics[-1])
            yield path


def _lines_of_input() -> Iterator[str]:
    """The lines of the standard input, as they come; bytes that are no text are replaced."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    yield from sys.stdin


def first_view(command: Generate, height: int, width: int) -> tuple[UInt8[Tensor, "{height} {width} 3"], Cameras]:
    """The frame to begin with, and its camera."""
    if command.room is not None:
        if height != width:
            raise InputError(f"Rooms are rendered square, but the model generates {width}×{height}; give --image.")
        if command.config.suite == "gallery":
            clip = GalleryTour(command.room, 1, 1.0).part(0)
        else:
            room = Room.named(command.room)
            clip = RoomClip(room, WalkedPath(room.start), 0.0, 1.0)
        cameras = clip.cameras(1)
        return clip.video(1, size=height)[0], Cameras(cameras.c2w[0], cameras.intrinsics[0])
    assert command.image is not None
    return first_frame(command.image, height, width)[0], level_camera(height, width, command.fov_degrees)


if __name__ == "__main__":
    run_command(lambda: main(parse(Generate, __doc__)))
