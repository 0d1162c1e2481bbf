"""Evaluate whether a room looks the same when the camera has turned away and come back.

    python -m recipes.echo_memory.evaluate --preset tiny

The schedules are the authors': each chunk turns by 45°, and chunks are joined as they are.

- *closure*: the first frame that is given, against the last one that is generated (the authors' measure). It alone is
  cheated by a video that stands still, so further columns say what is seen in between:
- *truth*: all generated frames against the rendered room.
- *mirror*: frames of the way back against those of the way there; none where the camera goes round in a circle.

The controls are the autoencoder (upper bound) and a still of the first frame. Every clip is measured once; the rows are
in OUT/measured.jsonl. Intervals are 95 % bootstraps over rooms, for one training run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor

from memkit.backbones import VideoFormat, WanBackbone
from memkit.cameras import Cameras
from memkit.errors import InputError, nearest
from memkit.evaluation import ResultStore, Table, compare, field, write_tables
from memkit.metrics import mean_psnr, psnr, ssim
from memkit.rollout import EchoContext
from memkit.training import fingerprint, report_done, run_command
from memkit.video import from_model, to_model, write_video
from memkit.worlds.paths import Path as WalkedPath
from memkit.worlds.paths import Turn
from memkit.worlds.rooms import Room, RoomClip
from memkit.worlds.tours import room_names
from recipes.echo_memory.generate import loaded, make_rollout
from recipes.echo_memory.presets import Command, parse

SCHEDULES = {
    "right45_return_2chunk": (-45.0, 45.0),
    "rot180_4chunk": (45.0, 45.0, -45.0, -45.0),
    "rot360_8chunk": (45.0,) * 8,
}
"""Degrees to the left per chunk, by the authors' names."""


@dataclass(frozen=True)
class Row:
    """The scores of one clip."""

    id: str
    """Name of the room."""
    condition: str
    """The schedule; for the controls followed by " / still" or " / autoencoder"."""
    closure_mse: float
    """Mean squared error of the last frame against the first that is given, of values from 0 to 255."""
    closure_psnr: float
    """The same in dB; 100 for equal frames, as the authors have it."""
    closure_ssim: float
    truth_psnr: float
    """PSNR in dB of all generated frames against the rendered ones."""
    mirror_psnr: float
    """PSNR in dB of the frames of the way back against those of the way there."""


@dataclass(frozen=True)
class Evaluate(Command):
    """The command line."""

    rooms: int = 16
    """Number of test rooms, without people."""
    schedules: tuple[str, ...] = ("right45_return_2chunk", "rot180_4chunk")
    """Schedules; rot360_8chunk too takes twice as long."""
    noise_seed: int = 42
    """Seed of the noise; a chunk adds 1, a room 1000."""
    at_once: int = 16
    """Number of rooms per batch."""
    keep: int = 4
    """Number of videos per schedule to keep in OUT/evaluation."""


def evaluate(command: Evaluate) -> dict[tuple[str, str], Row]:
    """Measure what is missing. Returns the rows of a run and of the controls."""
    config = command.config
    backbone, method = loaded(config)
    settings = {name: getattr(config, name) for name in ("model", "sampling_steps", "guidance_scale")}
    settings |= {"noise_seed": command.noise_seed, "weights": fingerprint(backbone.transformer, method)}
    rows = ResultStore(config.out / "measured.jsonl", settings, Row)
    names = room_names("test", 2 * command.rooms)[::2]
    with rows.progress(command.schedules, names):
        for schedule in command.schedules:
            for batch in rows.batches(schedule, names, command.at_once):
                _measure(command, backbone, method, schedule, batch, names, rows)
    return dict(rows.rows)


def _measure(
    command: Evaluate,
    backbone: WanBackbone,
    method: EchoContext,
    schedule: str,
    batch: list[str],
    names: list[str],
    rows: ResultStore[Row],
) -> None:
    form, turns = backbone.video_format, SCHEDULES[schedule]
    clips = [[clip_of(name, schedule, chunk, form) for chunk in range(len(turns))] for name in batch]
    real = [torch.cat([clip.video(form.num_frames, form.fps, form.height) for clip in own]) for own in clips]
    cameras = [[clip.cameras(form.num_frames, form.fps) for clip in own] for own in clips]
    first = torch.stack([frames[:1] for frames in real])
    rollout, parts = make_rollout(command.config, backbone, method), []
    rollout.observe(first, _stacked([own[0] for own in cameras], 1))
    for chunk in range(len(turns)):
        prompts = [own[chunk].motion for own in clips]
        seeds = [command.noise_seed + chunk + 1000 * names.index(name) for name in batch]
        parts.append(rollout.generate(prompts, _stacked([own[chunk] for own in cameras]), seeds))
    videos = torch.cat(parts, dim=1)
    for name, video, truth in zip(batch, videos, real, strict=True):
        rows.add(score(name, schedule, video, truth))
        rows.add(score(name, f"{schedule} / still", truth[:1].expand_as(truth), truth))
        rows.add(score(name, f"{schedule} / autoencoder", through_autoencoder(backbone, truth), truth))
        if names.index(name) < command.keep:
            (folder := rows.file.parent / "evaluation").mkdir(exist_ok=True)
            write_video(folder / f"{name}-{schedule}.mp4", torch.cat([video, truth], dim=2), form.fps)


def clip_of(name: str, schedule: str, chunk: int, form: VideoFormat) -> RoomClip:
    """One chunk of a schedule in a room; it begins at the camera at which the one before has ended."""
    seconds = (form.num_frames - 1) / form.fps
    path = WalkedPath(Room.named(name).start)
    path = path.then(*(Turn(degrees, abs(degrees) / seconds) for degrees in SCHEDULES[schedule]))
    return RoomClip(Room.named(name), path, chunk * seconds, seconds)


def score(name: str, condition: str, video: UInt8[Tensor, "t h w 3"], truth: UInt8[Tensor, "t h w 3"]) -> Row:
    """The scores of a video of whole chunks; the first frame of the truth is the one that was given."""
    last, given = video[-1:], truth[:1]
    mse = float((last.double() - given.double()).square().mean())
    mirror, turns = math.nan, SCHEDULES[condition.split(" / ")[0]]
    if sum(turns) == 0:
        half = len(video) // 2
        mirror = mean_psnr(psnr(video[half:], video[:half].flip(0)))
    return Row(
        name,
        condition,
        mse,
        10 * math.log10(255**2 / mse) if mse else 100.0,
        float(ssim(last, given).mean()),
        mean_psnr(psnr(video, truth)),
        mirror if math.isfinite(mirror) else math.nan,  # of a still
    )


@torch.no_grad()
def through_autoencoder(backbone: WanBackbone, frames: UInt8[Tensor, "t h w 3"]) -> UInt8[Tensor, "t h w 3"]:
    """The frames encoded and decoded, chunk by chunk."""
    chunks = frames.split(backbone.video_format.num_frames)
    latents = [backbone.encode_video(to_model(chunk).to(backbone.device)) for chunk in chunks]
    return torch.cat([from_model(backbone.decode_latents(each)).cpu() for each in latents])


def _stacked(cameras: list[Cameras], count: int | None = None) -> Cameras:
    return Cameras(*(torch.stack([getattr(at, name)[:count] for at in cameras]) for name in ("c2w", "intrinsics")))


def tables(rows: dict[tuple[str, str], Row], schedules: tuple[str, ...]) -> dict[str, Table]:
    """A table per schedule, with the controls."""
    measures = {
        "closure, MSE": field("closure_mse"),
        "closure, dB": field("closure_psnr"),
        "closure, SSIM": field("closure_ssim"),
        "truth, dB": field("truth_psnr"),
        "mirror, dB": field("mirror_psnr"),
    }
    found: dict[str, Table] = {}
    for schedule in schedules:
        found[schedule] = compare(measures, {"generated": [rows]}, schedule)
        for control in ("still", "autoencoder"):
            found[schedule] |= compare(measures, {control: [rows]}, f"{schedule} / {control}")
    return found


def main(command: Evaluate) -> int:
    """Evaluate. Returns the exit code."""
    if unknown := [name for name in command.schedules if name not in SCHEDULES]:
        raise InputError(
            f"There are no schedules {unknown}; choose among {', '.join(SCHEDULES)}.{nearest(unknown[0], SCHEDULES)}"
        )
    if command.config.model != "tiny":
        raise InputError("Rooms are rendered square, at the size of tiny-wan; generate videos with this model instead.")
    file = command.config.out / "evaluation.json"
    write_tables(file, tables(evaluate(command), command.schedules))
    report_done(file)
    return 0


if __name__ == "__main__":
    run_command(lambda: main(parse(Evaluate, __doc__)))
