"""A video of any length from an image or a video, chunk by chunk, with the memory of a trained run.

    python -m recipes.remind.generate --preset tiny --image ball.png --prompts "a ball goes round a pole in a lab"
    python -m recipes.remind.generate --preset wan2.1-1.3b --video tank.mp4 --known-latents 6 --prompts "a tank fills" \
        "a tank fills while a curtain hides the view" "a tank fills" --event occluder --event-chunks 2 4
    python -m recipes.remind.generate --preset wan2.1-1.3b --image room.png --prompts "a room" --keys "right-6, left-6"

Each chunk has a prompt of its own; the last one goes on. An interruption is either told in the prompts, and the model
makes it, or given: ``--event`` puts it over the last frame before it, held still, and the model makes what comes after.
Training shows interruptions as given. The camera path is keys or a pose file, one pose a frame (docs/poses.md); it is
held at its end. Written are the video, its poses, and a contact sheet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from memkit.backbones import WanBackbone
from memkit.cameras import Cameras
from memkit.errors import InputError
from memkit.interrupt import CameraOff, InterruptedClip, LookAway, Occluder, Timing, interrupt
from memkit.interrupt_kinds import KINDS
from memkit.keys import cameras_from_keys
from memkit.pose_files import latent_cameras, read_poses, write_poses
from memkit.positions import PMRoPE
from memkit.report import contact_sheet
from memkit.streaming_reads import Read, read_everything, read_packed, read_window
from memkit.video import from_model, read_clip, resize, to_model, write_video
from memkit.worlds.paths import FOV_DEGREES
from recipes.backbones import load_whole
from recipes.camera_paths import held, level_camera
from recipes.commands import run_command
from recipes.remind.presets import STRIDE, Command, Config, parse
from recipes.remind.rolling import Part, Roller
from recipes.remind.train import load_cameras
from recipes.training import pick_device

EventName = Literal["occluder", "lights-off", "look-away", "camera-loop", "camera-off", "fog"]
Frames = UInt8[Tensor, "frames height width 3"]
_BEFORE = 21  # frames that an event is encoded after: more than the VAE looks back
_RAMP = 4  # frames in which an event comes and goes


@dataclass(frozen=True)
class Generate(Command):
    """The command line."""

    image: Path | None = None
    """Begin with this picture, or the first frame of this video."""
    video: Path | None = None
    """Begin with the first frames of this video."""
    known_latents: int = 6
    """Latent frames of --video that are given: 6 are 21 frames."""
    prompts: tuple[str, ...] = ()
    """One a chunk; the last one goes on."""
    chunks: int | None = None
    """How many; by default as many as the camera path takes, or a clip of the training."""
    keys: str | None = None
    """Camera path: "w-3, right-20, left-20", counted in latent frames."""
    poses: Path | None = None
    """Camera path: a pose file with one pose a frame."""
    fov_degrees: float = FOV_DEGREES
    """Of the picture, across; keys need it."""
    event: EventName | None = None
    """An interruption that is given."""
    event_chunks: tuple[int, int] | None = None
    """Its chunks: the first, and the first after it."""
    read: Literal["all", "window", "packed"] = "all"
    """What a chunk reads of the cache: everything, the newest --read-frames, or the first frame and those."""
    read_frames: int = 12
    """Latent frames."""
    noise_seed: int = 42
    to: Path | None = None
    """The video; by default OUT/generated.mp4."""


@dataclass(frozen=True)
class Plan:
    """What a video is made from: given latents, a prompt and a span of latent frames a chunk, a camera a latent."""

    known: Float[Tensor, "1 channels known height width"]
    prompts: Sequence[str]
    spans: Sequence[tuple[int, int]]
    cameras: Cameras
    event: EventName | None = None
    event_chunks: range = field(default_factory=lambda: range(0))


def main(command: Generate) -> int:
    """Generate; the exit code."""
    config = command.config
    _check(command)
    dtype = torch.bfloat16 if config.dtype == "bf16" else torch.float32
    backbone = load_whole(config.model, config.threads, pick_device(config.device), config.out, dtype)
    positions = load_cameras(config, backbone, config.out).eval()
    given = first_frames(command, config)
    path = camera_path(command, config)
    plan = make_plan(config, backbone, given, command.prompts, path, command.chunks)
    if command.event is not None and command.event_chunks is not None:
        plan = with_event(config, plan, command.event, command.event_chunks)
    frames = film(config, backbone, positions, plan, command.noise_seed, read_of(command))
    file = command.to or config.out / "generated.mp4"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_video(file, frames, config.fps)
    write_poses(file.with_suffix(".latents.npz"), plan.cameras)
    sheet = contact_sheet([(plan.prompts[0], [("generated", frames)])], columns=2 * len(plan.spans), height=96)
    sheet.save(file.with_suffix(".png"))
    made = f"{len(plan.spans)} chunks, {plan.known.shape[2]} latent frames given"
    print(f"{file}: {len(frames)} frames in {made}; poses of the latent frames and a contact sheet lie beside it")
    return 0


def _check(command: Generate) -> None:
    if (command.image is None) == (command.video is None):
        raise InputError("Give one of --image and --video.")
    if not command.prompts:
        raise InputError("Give --prompts, one for all chunks or one for each.")
    if command.keys is not None and command.poses is not None:
        raise InputError("Give one of --keys and --poses, or neither.")
    if (command.event is None) != (command.event_chunks is None):
        raise InputError("--event and --event-chunks go together.")
    if command.event in ("look-away", "camera-loop") and (command.keys or command.poses):
        raise InputError(f"--event {command.event} turns the camera itself; leave --keys and --poses out.")


def first_frames(command: Generate, config: Config) -> Frames:
    """What is given: one frame, or those of so many latent frames."""
    file = command.image or command.video
    assert file is not None
    count = 1 if command.image is not None else STRIDE * (command.known_latents - 1) + 1
    if count < 1:
        raise InputError(f"--known-latents {command.known_latents}: give 1 or more.")
    pad = "hold" if command.image is not None else "error"
    return resize(read_clip(file, config.fps, count, pad=pad), config.height, config.width)


def camera_path(command: Generate, config: Config) -> Cameras | None:
    """One camera a latent frame, [latents]; None for one that stands."""
    if command.keys is not None:
        return keyed_path(command.keys, config, command.fov_degrees)
    if command.poses is None:
        return None
    cameras = held(read_poses(command.poses), STRIDE)
    return latent_cameras(cameras, STRIDE)


def keyed_path(keys: str, config: Config, fov_degrees: float = FOV_DEGREES) -> Cameras:
    """Of keys, [latents], from a level camera."""
    start = level_camera(config.height, config.width, fov_degrees)
    return latent_cameras(cameras_from_keys(keys, start, frames_per_latent=STRIDE), STRIDE)


def make_plan(
    config: Config,
    backbone: WanBackbone,
    frames: Frames,
    prompts: Sequence[str],
    path: Cameras | None,
    chunks: int | None = None,
) -> Plan:
    """Chunks for the whole path, or as many as are asked for, at least enough for what is given and one more."""
    known = backbone.encode_video(to_model(frames).to(backbone.device))
    given = known.shape[2]
    wanted = config.latents if path is None else len(path.c2w)
    if chunks is None:
        chunks = 1 + max(0, math.ceil((wanted - config.first) / config.chunk))
    total = config.first + (chunks - 1) * config.chunk
    if total <= given:
        raise InputError(f"{chunks} chunks are {total} latent frames, and {given} are given; make more chunks.")
    if len(prompts) > chunks:
        raise InputError(f"There are {len(prompts)} prompts for {chunks} chunks; give at most one a chunk.")
    if path is None:
        one = level_camera(config.height, config.width, FOV_DEGREES)
        path = Cameras(one.c2w[None], one.intrinsics[None])
    rows = torch.arange(total).clamp(max=len(path.c2w) - 1)  # held at its end, and cut where there are fewer chunks
    starts = [0, *range(config.first, total, config.chunk)]
    return Plan(
        known=known,
        prompts=[*prompts, *[prompts[-1]] * (chunks - len(prompts))],
        spans=list(zip(starts, [*starts[1:], total], strict=True)),
        cameras=Cameras(path.c2w[rows], path.intrinsics[rows]),
    )


def with_event(config: Config, plan: Plan, event: EventName, chunks: tuple[int, int]) -> Plan:
    """The plan with an interruption in the chunks [start, stop); one that turns the camera turns that of the plan."""
    start, stop = chunks
    if not 0 < start < stop < len(plan.spans) or plan.spans[start][0] < plan.known.shape[2]:
        raise InputError(
            f"--event-chunks {start} {stop}: give chunks after what is given, with one left at the end of "
            f"{len(plan.spans)} to be made."
        )
    a, b = plan.spans[start][0], plan.spans[stop - 1][1]
    size = torch.zeros(1, config.height, config.width, 3, dtype=torch.uint8)
    turned = hidden(event, size[0], STRIDE * (b - a), config.fps).c2w[STRIDE::STRIDE][: b - a]
    c2w = plan.cameras.c2w.clone()
    c2w[a:b] = c2w[a:b] @ turned.to(c2w)
    cameras = Cameras(c2w, plan.cameras.intrinsics)
    return replace(plan, cameras=cameras, event=event, event_chunks=range(start, stop))


def hidden(event: EventName, frame: UInt8[Tensor, "height width 3"], count: int, fps: float) -> InterruptedClip:
    """``frame`` held, interrupted in the frames 1 to ``count``; frame 0 is clean, and so are some at the end."""
    kind = next(kind for kind in KINDS if event == kind.NAME)
    frames = count + 10  # so that the end, which `interrupt` keeps clean, is behind the event
    ramp = 0 if kind is CameraOff else min(_RAMP, count // 2)
    timing = Timing(*(x / (frames - 1) for x in (0, ramp, count + 1 - ramp, count + 1)))
    if issubclass(kind, Occluder):
        by = kind(timing=timing, cover=1.0)
    else:
        by = kind(timing=timing, keep=1.0) if issubclass(kind, LookAway) else kind(timing=timing)
    return interrupt(frame.expand(frames, *frame.shape), fps, by)


@torch.no_grad()
def film(
    config: Config,
    backbone: WanBackbone,
    positions: PMRoPE | None,
    plan: Plan,
    seed: int,
    read: Read = read_everything,
) -> Frames:
    """The frames of a plan."""
    size, total = (plan.known.shape[3], plan.known.shape[4]), plan.spans[-1][1]
    cameras = Cameras(plan.cameras.c2w[None], plan.cameras.intrinsics[None])
    roller = Roller(config, backbone, positions, [seed], cameras, size, total, read)
    latents, event = plan.known[:, :, :0], None
    for i, (a, b) in enumerate(tqdm(plan.spans, desc="chunks")):
        known = plan.known[:, :, a:b]
        if i in plan.event_chunks:
            assert plan.event is not None
            first, last = plan.spans[plan.event_chunks[0]][0], plan.spans[plan.event_chunks[-1]][1]
            if event is None:
                event = _event_latents(config, backbone, latents, plan.event, last - first)
            known = event[:, :, a - first : b - first]
        part = Part([plan.prompts[i]], b - a, known if known.shape[2] else None)
        latents = torch.cat([latents, roller.make(part).to(latents)], dim=2)
    return from_model(backbone.decode_latents(latents)).cpu()


def _event_latents(config: Config, backbone: WanBackbone, latents: Tensor, event: EventName, count: int) -> Tensor:
    """Latents of an event over the last frame of ``latents``."""
    before = from_model(backbone.decode_latents(latents)).cpu()
    over = hidden(event, before[-1], STRIDE * count, config.fps).video[1 : STRIDE * count + 1]
    both = torch.cat([before[-_BEFORE:], over])
    return backbone.encode_video(to_model(both).to(backbone.device))[:, :, -count:]


def read_of(command: Generate) -> Read:
    """The policy of a command line."""
    if command.read == "window":
        return read_window(command.read_frames)
    return read_packed(previous=command.read_frames) if command.read == "packed" else read_everything


if __name__ == "__main__":
    run_command(lambda: main(parse(Generate, __doc__)))
