"""A video of any length from an image or a video, chunk by chunk, with the memory of a trained run.

    python -m recipes.remind.generate --preset tiny --image ball.png --prompts "a ball goes round a pole in a lab"
    python -m recipes.remind.generate --preset wan2.1-1.3b --video tank.mp4 --conditioning-latents 6 \
        --prompts "a tank fills" "a tank fills while a curtain hides the view" "a tank fills" \
        --event occluder --event-chunks 2 4
    python -m recipes.remind.generate --preset wan2.1-1.3b --image room.png --prompts "a room" --keys "right-6, left-6"

Each chunk has its own prompt; the last prompt is repeated. An interruption is either described in the prompts and
generated, or rendered over the last frame before it (``--event``) and given as conditioning frames, as in training. The
camera path is keys or a pose file with one pose per frame (docs/poses.md); its last camera is held. The command writes
the video, its poses, and a contact sheet.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from memkit.cameras import (
    Cameras,
    cameras_from_keys,
    frame_cameras,
    hold_last_camera,
    latent_cameras,
    level_camera,
    poses_file,
    read_poses,
    write_poses,
)
from memkit.display import counted
from memkit.errors import InputError
from memkit.interruptions import InterruptionName
from memkit.report import contact_sheet
from memkit.streaming import read_everything, read_packed, read_window
from memkit.streaming.read_policies import Read
from memkit.training import find_trained, load_backbone, report_done, run_command
from memkit.video import read_clip, resize, write_video
from memkit.worlds.paths import FOV_DEGREES
from recipes.remind.presets import SHIPPED, STRIDE, Command, Config, parse
from recipes.remind.sampler import Frames, load_cameras, plan_video, sample_video


@dataclass(frozen=True)
class Generate(Command):
    """The command line."""

    image: Path | None = None
    """Picture to begin with, or a video of which the first frame is used."""
    video: Path | None = None
    """Video whose first frames are the conditioning frames."""
    conditioning_latents: int = 6
    """Number of latent frames of --video to condition on; 6 are 21 video frames."""
    prompts: tuple[str, ...] = ()
    """One prompt per chunk; the last one is repeated."""
    chunks: int | None = None
    """Number of chunks; by default that of the camera path, or that of a training clip."""
    keys: str | None = None
    """Camera path as keys with a number of latent frames each, such as "w-3, right-20, left-20"."""
    poses: Path | None = None
    """Camera path as a pose file with one pose per frame."""
    fov_degrees: float = FOV_DEGREES
    """Horizontal field of view of the picture, for --keys."""
    event: InterruptionName | None = None
    """Kind of an interruption to render."""
    event_chunks: tuple[int, int] | None = None
    """First chunk of the interruption, and first chunk after it."""
    read: Literal["all", "window", "packed"] = "all"
    """Frames that a chunk reads from the cache: all, the newest --read-frames, or those and the first frame."""
    read_frames: int = 12
    """Number of newest latent frames for --read window and packed."""
    noise_seed: int = 42
    """Seed of the noise."""
    to: Path | None = None
    """File of the video; by default OUT/generated.mp4."""
    weights: str | None = None
    """Folder of a trained run, or name of weights that memkit ships (remind-tiny); by default OUT."""


def main(command: Generate) -> int:
    """Generate a video. Returns the exit code."""
    config = command.config
    _check(command)
    trained = find_trained(config.out, command.weights, SHIPPED)
    backbone = load_backbone(config, trained=trained)
    positions = load_cameras(config, backbone, trained).eval()
    frames = first_frames(command, config)
    path = camera_path(command, config)
    plan = plan_video(config, backbone, frames, command.prompts, path, command.chunks)
    if command.event is not None and command.event_chunks is not None:
        start, stop = command.event_chunks
        try:
            plan = plan.with_interruption(command.event, start, stop, config.fps)
        except InputError as error:
            raise InputError(f"--event-chunks {start} {stop}: {error}") from error
    frames = sample_video(config, backbone, positions, plan, command.noise_seed, read_of(command))
    file = command.to or config.out / "generated.mp4"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_video(file, frames, config.fps)
    write_poses(poses_file(file), frame_cameras(plan.cameras, STRIDE))
    sheet = contact_sheet([(plan.prompts[0], [("generated", frames)])], columns=2 * len(plan.spans), height=96)
    sheet.save(file.with_suffix(".png"))
    given = counted(plan.conditioning.shape[2], "latent frame")
    chunks = f"{counted(len(plan.spans), 'chunk')}, conditioned on {given}"
    print(f"{counted(len(frames), 'frame')} in {chunks}; poses and a contact sheet are beside the video")
    report_done(file)
    return 0


def _check(command: Generate) -> None:
    if (command.image is None) == (command.video is None):
        raise InputError("Give one of --image and --video.")
    if not command.prompts:
        raise InputError("Give --prompts, one for all chunks or one per chunk.")
    if command.keys is not None and command.poses is not None:
        raise InputError("Give one of --keys and --poses, or neither.")
    if (command.event is None) != (command.event_chunks is None):
        raise InputError("--event and --event-chunks go together.")
    if command.event in ("look-away", "camera-loop") and (command.keys or command.poses):
        raise InputError(f"--event {command.event} turns the camera itself; leave --keys and --poses out.")


def first_frames(command: Generate, config: Config) -> Frames:
    """The conditioning frames: one of --image, or those of --conditioning-latents latent frames of --video."""
    file = command.image or command.video
    assert file is not None
    count = 1 if command.image is not None else STRIDE * (command.conditioning_latents - 1) + 1
    if count < 1:
        raise InputError(f"--conditioning-latents {command.conditioning_latents}: give 1 or more.")
    pad = "hold" if command.image is not None else "error"
    return resize(read_clip(file, config.fps, count, pad=pad), config.height, config.width)


def camera_path(command: Generate, config: Config) -> Cameras | None:
    """One camera per latent frame, [latents]; None if the camera does not move."""
    if command.keys is not None:
        return keyed_path(command.keys, config, command.fov_degrees)
    if command.poses is None:
        return None
    return latent_cameras(hold_last_camera(read_poses(command.poses), STRIDE), STRIDE)


def keyed_path(keys: str, config: Config, fov_degrees: float = FOV_DEGREES) -> Cameras:
    """The camera path of these keys, [latents], from a level camera."""
    start = level_camera(config.height, config.width, fov_degrees)
    return latent_cameras(cameras_from_keys(keys, start, frames_per_latent=STRIDE), STRIDE)


def read_of(command: Generate) -> Read:
    """The read policy of the command line."""
    if command.read == "window":
        return read_window(command.read_frames)
    return read_packed(previous=command.read_frames) if command.read == "packed" else read_everything


if __name__ == "__main__":
    run_command(lambda: main(parse(Generate, __doc__)))
