"""Generate a long video from one picture, while the camera turns on the spot by some degrees per chunk.

    python -m recipes.echo_memory.generate --preset tiny --room test-00000 --turns 45 45 -45 -45
    python -m recipes.echo_memory.generate --image room.png --turns 45 -45 --prompt "a room" \
        --preset wan2.1-1.3b-k1 --checkpoint context_k1/epoch-0.safetensors

Turns are to the left, negative ones to the right; all frames of a chunk are new, and chunks are joined as they are.
With ``--checkpoint``, the weights are those of a public checkpoint of Echo-Memory, on the model's other parts;
otherwise those of a trained run. The poses are written beside the video.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor
from tqdm import tqdm

from memkit.backbones import WanBackbone
from memkit.cameras import Cameras, echo_yaw, from_echo_poses, level_camera, poses_file, write_poses
from memkit.errors import InputError
from memkit.injectors.echo_memory import load_echo_memory
from memkit.rollout import LAYOUTS, EchoContext, Rollout
from memkit.training import load_backbone, report_done, run_command
from memkit.training.load import DTYPES
from memkit.video import VideoWriter, first_frame
from memkit.worlds.paths import FOV_DEGREES
from memkit.worlds.paths import Path as WalkedPath
from memkit.worlds.rooms import Room, RoomClip
from recipes.echo_memory.data import load_method
from recipes.echo_memory.presets import Command, Config, parse


@dataclass(frozen=True)
class Generate(Command):
    """The command line."""

    room: str | None = None
    """Room of the rooms world with whose first view to begin, such as test-00000-dynamic."""
    image: Path | None = None
    """Picture to begin with, or a video of which the first frame is used."""
    turns: tuple[float, ...] = (45.0, 45.0, -45.0, -45.0)
    """Degrees to the left per chunk."""
    checkpoint: Path | None = None
    """A public checkpoint of Echo-Memory, of the row of the settings."""
    fov_degrees: float = FOV_DEGREES
    """Horizontal field of view of the picture."""
    prompt: str = ""
    """Prompt of all chunks."""
    noise_seed: int = 42
    """Seed of the first chunk's noise; each chunk adds 1."""
    to: Path | None = None
    """File of the video; by default OUT/generated.mp4."""


def main(command: Generate) -> int:
    """Generate a video. Returns the exit code."""
    config = command.config
    if (command.room is None) == (command.image is None):
        raise InputError("Give one of --room and --image.")
    backbone, method = loaded(config, command.checkpoint)
    form = backbone.video_format
    frame, start = first_view(command, form.height, form.width)
    rollout = make_rollout(config, backbone, method)
    file, seen = command.to or config.out / "generated.mp4", [start]
    rollout.observe(frame[None, None], Cameras(start.c2w[None, None], start.intrinsics[None, None]))
    file.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(file, form.fps) as video:
        video.add(frame[None])
        for chunk, cameras in enumerate(tqdm(turning(start, command.turns, form.num_frames), desc="chunks")):
            video.add(rollout.generate([command.prompt], cameras, [command.noise_seed + chunk])[0])
            seen += [Cameras(c2w, start.intrinsics) for c2w in cameras.c2w[0]]
    whole = Cameras(torch.stack([at.c2w for at in seen]), torch.stack([at.intrinsics for at in seen]))
    write_poses(poses_file(file), whole)
    report_done(file)
    return 0


def loaded(config: Config, checkpoint: Path | None = None) -> tuple[WanBackbone, EchoContext]:
    """The model and the method of a trained run, or of a public checkpoint."""
    if checkpoint is None:
        backbone = load_backbone(config, trained=config.out)
        return backbone, load_method(config, backbone, config.out / "method").eval()
    backbone = load_backbone(config)
    transformer, memory = load_echo_memory(checkpoint, config.row, torch_dtype=DTYPES[config.dtype])
    torch.nn.Module.to(transformer, backbone.device)
    backbone.pipeline().register_modules(transformer=transformer)
    method = EchoContext(memory.to(backbone.device), replace(LAYOUTS[config.row], frames=config.frames))
    return WanBackbone.from_pipeline(backbone.pipeline(), backbone.video_format), method


def make_rollout(config: Config, backbone: WanBackbone, method: EchoContext) -> Rollout:
    """A rollout with the settings of a run."""
    return Rollout(
        backbone,
        method,
        steps=config.sampling_steps,
        guidance_scale=config.guidance_scale,
        negative_prompt=config.negative_prompt,
    )


def turning(start: Cameras, turns: Sequence[float], frames: int) -> Iterator[Cameras]:
    """The cameras [1,T] of each chunk, which turn on the spot from where those of the one before have ended."""
    c2w = start.c2w.double()
    for degrees in turns:
        path = c2w @ from_echo_poses(echo_yaw(degrees, frames).double())
        c2w = path[-1]
        yield Cameras(path[None], start.intrinsics.double().expand(1, frames, 4))


def first_view(command: Generate, height: int, width: int) -> tuple[UInt8[Tensor, "{height} {width} 3"], Cameras]:
    """The frame to begin with, and its camera."""
    if command.room is not None:
        if height != width:
            raise InputError(f"Rooms are rendered square, but the model generates {width}×{height}; give --image.")
        room = Room.named(command.room)
        clip = RoomClip(room, WalkedPath(room.start), 0.0, 1.0)
        cameras = clip.cameras(1)
        return clip.video(1, size=height)[0], Cameras(cameras.c2w[0], cameras.intrinsics[0])
    assert command.image is not None
    return first_frame(command.image, height, width)[0], level_camera(height, width, command.fov_degrees)


if __name__ == "__main__":
    run_command(lambda: main(parse(Generate, __doc__)))
