"""A video of any length from an image or a video, chunk by chunk, with the memory of a trained run.

    python -m recipes.remind.generate --preset tiny --image ball.png --prompts "a ball goes round a pole in a lab"
    python -m recipes.remind.generate --preset wan2.1-1.3b --video tank.mp4 --conditioning-latents 6 \
        --prompts "a tank fills" "a tank fills while a curtain hides the view" "a tank fills" \
        --event occluder --event-chunks 2 4
    python -m recipes.remind.generate --preset wan2.1-1.3b --image room.png --prompts "a room" --keys "right-6, left-6"

Each chunk has a prompt of its own; the last one is repeated. An interruption is either described in the prompts, and
the model generates it, or given: ``--event`` puts it over the last frame before it, held still, and the model generates
what comes after. Training shows interruptions as given. The camera path is keys or a pose file, one pose per frame
(docs/poses.md); its last camera is held. Written are the video, its poses, and a contact sheet.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from memkit.cameras import (
    Cameras,
    cameras_from_keys,
    hold_last_camera,
    latent_cameras,
    level_camera,
    read_poses,
    write_poses,
)
from memkit.errors import InputError
from memkit.interruptions import InterruptionName
from memkit.report import contact_sheet
from memkit.streaming import read_everything, read_packed, read_window
from memkit.streaming.read_policies import Read
from memkit.training import load_backbone, report_done, run_command
from memkit.video import read_clip, resize, write_video
from memkit.worlds.paths import FOV_DEGREES
from recipes.remind.presets import STRIDE, Command, Config, parse
from recipes.remind.sampler import Frames, load_cameras, plan_video, sample_video


@dataclass(frozen=True)
class Generate(Command):
    """The command line."""

    image: Path | None = None
    """Begin with this picture, or the first frame of this video."""
    video: Path | None = None
    """Begin with the first frames of this video."""
    conditioning_latents: int = 6
    """Latent frames of --video that are given: 6 are 21 frames."""
    prompts: tuple[str, ...] = ()
    """One prompt per chunk; the last one is repeated."""
    chunks: int | None = None
    """Number of chunks; by default what the camera path takes, or as many as a clip in training has."""
    keys: str | None = None
    """Camera path: "w-3, right-20, left-20", counted in latent frames."""
    poses: Path | None = None
    """Camera path: a pose file with one pose per frame."""
    fov_degrees: float = FOV_DEGREES
    """Horizontal field of view of the picture; keys need it."""
    event: InterruptionName | None = None
    """An interruption that is given, not generated."""
    event_chunks: tuple[int, int] | None = None
    """Chunks of the interruption: the first, and the first after it."""
    read: Literal["all", "window", "packed"] = "all"
    """What a chunk reads of the cache: everything, the newest --read-frames, or the first frame and those."""
    read_frames: int = 12
    """Latent frames that --read window and packed keep."""
    noise_seed: int = 42
    """Seed of the noise."""
    to: Path | None = None
    """The video; by default OUT/generated.mp4."""


def main(command: Generate) -> int:
    """Generate; the exit code."""
    config = command.config
    _check(command)
    backbone = load_backbone(config, trained=config.out)
    positions = load_cameras(config, backbone, config.out).eval()
    given = first_frames(command, config)
    path = camera_path(command, config)
    plan = plan_video(config, backbone, given, command.prompts, path, command.chunks)
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
    write_poses(file.with_suffix(".latents.npz"), plan.cameras)
    sheet = contact_sheet([(plan.prompts[0], [("generated", frames)])], columns=2 * len(plan.spans), height=96)
    sheet.save(file.with_suffix(".png"))
    chunks = f"{len(plan.spans)} chunks, {plan.conditioning.shape[2]} latent frames given"
    print(f"{len(frames)} frames in {chunks}; poses and a contact sheet are beside the video")
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
    """The given frames: one, or those of --conditioning-latents latent frames."""
    file = command.image or command.video
    assert file is not None
    count = 1 if command.image is not None else STRIDE * (command.conditioning_latents - 1) + 1
    if count < 1:
        raise InputError(f"--conditioning-latents {command.conditioning_latents}: give 1 or more.")
    pad = "hold" if command.image is not None else "error"
    return resize(read_clip(file, config.fps, count, pad=pad), config.height, config.width)


def camera_path(command: Generate, config: Config) -> Cameras | None:
    """One camera per latent frame, [latents]; None for one that does not move."""
    if command.keys is not None:
        return keyed_path(command.keys, config, command.fov_degrees)
    if command.poses is None:
        return None
    cameras = hold_last_camera(read_poses(command.poses), STRIDE)
    return latent_cameras(cameras, STRIDE)


def keyed_path(keys: str, config: Config, fov_degrees: float = FOV_DEGREES) -> Cameras:
    """The path of these keys, [latents], from a level camera."""
    start = level_camera(config.height, config.width, fov_degrees)
    return latent_cameras(cameras_from_keys(keys, start, frames_per_latent=STRIDE), STRIDE)


def read_of(command: Generate) -> Read:
    """The read policy of the command line."""
    if command.read == "window":
        return read_window(command.read_frames)
    return read_packed(previous=command.read_frames) if command.read == "packed" else read_everything


if __name__ == "__main__":
    run_command(lambda: main(parse(Generate, __doc__)))
