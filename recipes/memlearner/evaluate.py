"""Does a place look as it did? Chunks after a real past, and rollouts that turn away and come back, in unseen rooms.

    python -m recipes.memlearner.evaluate --preset tiny --method learned

Two comparisons (MemLearner, Evaluation), in rooms without people and in the same rooms with them:

- *truth*: the past is real, one chunk is made, and held against the real one. Of its frames, those whose pose was in
  the past, with the camera away since, also have a column of their own.
- *revisit*: from one real frame the camera turns by 90° to 180°, waits and turns back, chunk after chunk; frames of the
  way back are held against those of the way there, as made, and against the truth.

PSNR is of the mean squared error over a clip's frames. Beside every method stands the autoencoder (the ceiling) and a
still of the last frame (the floor). Every clip is measured once: OUT/measured.jsonl; what no method changes lies beside
the banks. Intervals are 95 % bootstraps over rooms, for one training run; `recipes.memlearner.claims` has several.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from tqdm import tqdm

from memkit.backbones import WanBackbone
from memkit.cameras import Cameras
from memkit.context_methods import ContextMethod
from memkit.errors import InputError
from memkit.metrics import bootstrap_runs
from memkit.metrics.quality import mean_psnr, psnr
from memkit.metrics.revisit import revisit_pairs
from memkit.rollout import Rollout
from memkit.video import from_model, to_model, write_video
from memkit.worlds.paths import Path as WalkedPath
from memkit.worlds.paths import turn_and_return
from memkit.worlds.rooms import Room, RoomClip
from recipes.commands import run_command
from recipes.memlearner.methods import load_method
from recipes.memlearner.presets import Command, Config, parse
from recipes.memlearner.train import load_backbone
from recipes.memlearner.videos import RoomVideo, room_names
from recipes.rows import Measured
from recipes.tables import Table, columns, write_tables
from recipes.training import fingerprint, pick_device

Comparison = Literal["truth", "revisit"]
Run = dict[tuple[str, str], "Row"]


@dataclass(frozen=True)
class Evaluate(Command):
    """The command line."""

    rooms: int = 32
    """Test rooms, each without people and with them."""
    noise_seed: int = 42
    """Of the first room; they count up. Runs that are compared keep it."""
    at_once: int = 16
    """Rooms in a batch."""
    keep: int = 8
    """Videos of each kind to keep in OUT/evaluation."""


@dataclass(frozen=True)
class Row:
    """One clip. PSNR in dB, NaN where no frame is compared."""

    id: str
    """Room, with people or without."""
    condition: str
    """Comparison, and what made the clip: "truth", "revisit", with " / still" or " / autoencoder" for the controls."""
    psnr: float
    """Against the truth: of all frames that were made, or in a revisit of the way back."""
    again: float
    """Of frames seen before: in "truth" against the truth, in "revisit" against the frames of the way there."""


@dataclass(frozen=True)
class Clip:
    """A path through a room: what is given of it, and what is to be made."""

    room: RoomClip
    past: int
    """Chunks that are given; with none, the first frame is."""
    chunks: int
    """Chunks to make."""

    def truth(self, form: Any) -> tuple[UInt8[Tensor, "frames h w 3"], Cameras]:
        """All frames, given and to be made."""
        count = (self.past + self.chunks) * (form.num_frames - 1) + 1
        return self.room.video(count, form.fps, form.height), self.room.cameras(count, form.fps)


def clip_of(comparison: Comparison, name: str, config: Config, form: Any) -> Clip:
    """Of a room."""
    if comparison == "truth":
        return Clip(RoomVideo(name, config.video_chunks, form).clip(0), config.video_chunks - 1, 1)
    rng = random.Random(f"{name.removesuffix('-dynamic')}/revisit")
    path = WalkedPath(Room.named(name).start)
    path = path.then(*turn_and_return(5.0 * rng.randint(18, 36), rng.choice(("left", "right"))))
    seconds = (form.num_frames - 1) / form.fps
    return Clip(RoomClip(Room.named(name), path, 0.0, seconds), 0, math.ceil(path.duration / seconds))


def score(name: str, condition: str, clip: Clip, made: Tensor, truth: Tensor, cameras: Cameras, given: int) -> Row:
    """Of a clip whose first ``given`` frames are real."""
    pairs = [(a, b) for a, b in revisit_pairs(cameras) if b >= given]
    if condition.startswith("truth"):
        quality = psnr(made[given:], truth[given:])
        again = [b for _, b in pairs]
        return Row(name, condition, mean_psnr(quality), mean_psnr(quality[[b - given for b in again]]))
    back, there = [b for _, b in pairs], [a for a, _ in pairs]
    if not back:
        return Row(name, condition, math.nan, math.nan)
    own = mean_psnr(psnr(made[back], made[there]))  # a still is always like itself, which says nothing
    return Row(name, condition, mean_psnr(psnr(made[back], truth[back])), own if math.isfinite(own) else math.nan)


@dataclass(frozen=True)
class Bench:
    """What all of an evaluation shares."""

    command: Evaluate
    backbone: WanBackbone
    method: ContextMethod | None

    def run(self, comparison: Comparison, rows: Measured[Row]) -> None:
        """Make and measure the rooms that are missing; of one length at a time, so that a batch has one shape."""
        config, form = self.command.config, self.backbone.video_format
        names = room_names("test", 2 * self.command.rooms, both=True)
        clips = {name: clip_of(comparison, name, config, form) for name in rows.missing(comparison, names)}
        for length in sorted({clip.chunks for clip in clips.values()}):
            same = [name for name, clip in clips.items() if clip.chunks == length]
            size = self.command.at_once
            batches = [same[i : i + size] for i in range(0, len(same), size)]
            for batch in tqdm(batches, desc=f"{comparison}, {length} chunks"):
                self._batch(comparison, batch, [clips[name] for name in batch], rows)

    def _batch(self, comparison: Comparison, names: list[str], clips: list[Clip], rows: Measured[Row]) -> None:
        form, config = self.backbone.video_format, self.command.config
        seen = [clip.truth(form) for clip in clips]
        truth = torch.stack([frames for frames, _ in seen])
        cameras = Cameras(*(torch.stack([getattr(at, f) for _, at in seen]) for f in ("c2w", "intrinsics")))
        stride = form.num_frames - 1
        given = clips[0].past * stride + 1
        all_names = room_names("test", 2 * self.command.rooms, both=True)
        seeds = [self.command.noise_seed + all_names.index(name) // 2 for name in names]
        rollout = Rollout(
            self.backbone,
            self._method(),
            budget=config.budget and config.budget * len(names),
            steps=config.sampling_steps,
            guidance_scale=config.guidance_scale,
        )
        rollout.saw(truth[:, :given], _part(cameras, slice(0, given)))
        made = [truth[:, :given]]
        for chunk in range(clips[0].chunks):
            start = given - 1 + chunk * stride
            part = _part(cameras, slice(start, start + stride + 1))
            prompts = [_caption(clip, start / form.fps) for clip in clips]
            frames = rollout.make(prompts, part, [seed + 1000 * chunk for seed in seeds])
            made.append(frames[:, 1:])
        videos = torch.cat(made, dim=1)
        for name, clip, video, real, (_, at) in zip(names, clips, videos, truth, seen, strict=True):
            rows.add(score(name, comparison, clip, video, real, at, given))
            if all_names.index(name) < self.command.keep:
                folder = rows.file.parent / "evaluation"
                folder.mkdir(exist_ok=True)
                write_video(folder / f"{name}-{comparison}.mp4", torch.cat([video, real], dim=2), form.fps)

    def _method(self) -> ContextMethod:
        assert self.method is not None
        return self.method

    def controls(self, comparison: Comparison, rows: Measured[Row]) -> None:
        """The autoencoder's picture of the truth, and a still of the last given frame."""
        form = self.backbone.video_format
        names = room_names("test", 2 * self.command.rooms, both=True)
        floor, ceiling = f"{comparison} / still", f"{comparison} / autoencoder"
        for name in tqdm(rows.missing(ceiling, names), desc=f"{comparison}, controls"):
            clip = clip_of(comparison, name, self.command.config, form)
            (truth, cameras), given = clip.truth(form), clip.past * (form.num_frames - 1) + 1
            still = torch.cat([truth[:given], truth[given - 1 : given].expand(len(truth) - given, -1, -1, -1)])
            rows.add(score(name, floor, clip, still, truth, cameras, given))
            rows.add(score(name, ceiling, clip, self._through(truth), truth, cameras, given))

    @torch.no_grad()
    def _through(self, truth: UInt8[Tensor, "frames h w 3"]) -> UInt8[Tensor, "frames h w 3"]:
        """Through the autoencoder, chunk by chunk."""
        stride, out = self.backbone.video_format.num_frames - 1, [truth[:1]]
        for start in range(0, len(truth) - 1, stride):
            video = to_model(truth[start : start + stride + 1]).to(self.backbone.device)
            decoded = self.backbone.decode_latents(self.backbone.encode_video(video))
            out.append(from_model(decoded).cpu()[1:])
        return torch.cat(out)


def _part(cameras: Cameras, part: slice) -> Cameras:
    return Cameras(cameras.c2w[:, part], cameras.intrinsics[:, part])


def _caption(clip: Clip, seconds: float) -> str:
    """What the camera does in the chunk that begins so many seconds after the clip."""
    room = clip.room
    return RoomClip(room.room, room.path, room.start_seconds + seconds, room.seconds).parts()[0].text


def controls(command: Evaluate, backbone: WanBackbone | None = None) -> Run:
    """The rows that no method changes, which lie beside the banks; training leaves the autoencoder as it is."""
    config = command.config
    backbone = backbone or load_backbone(config, pick_device(config.device))
    made = {"model": config.model, "video_chunks": config.video_chunks}
    rows = Measured(config.folder / "controls.jsonl", made, Row)
    bench = Bench(command, backbone, None)
    for comparison in ("truth", "revisit"):
        bench.controls(comparison, rows)
    return dict(rows.rows)


def evaluate(command: Evaluate) -> Run:
    """All rows of a run, with those that no method changes."""
    config = command.config
    made = {name: getattr(config, name) for name in ("model", "sampling_steps", "guidance_scale", "history_guidance")}
    made |= {"noise_seed": command.noise_seed, "video_chunks": config.video_chunks, "budget": config.budget}
    backbone = load_backbone(config, pick_device(config.device), config.out)
    method = load_method(config, backbone, config.out / "method").eval()
    weights = fingerprint(backbone.transformer, method)
    rows = Measured(config.out / "measured.jsonl", {**made, "weights": weights}, Row)
    bench = Bench(command, backbone, method)
    for comparison in ("truth", "revisit"):
        bench.run(comparison, rows)
    return {**controls(command, backbone), **rows.rows}


def tables(runs: Mapping[str, Sequence[Run]]) -> dict[str, Table]:
    """By rooms, methods: both comparisons, with the difference to "none" in pairs of the same room and noise."""
    out: dict[str, Table] = {}
    for title, people in (("rooms without people", False), ("rooms with people", True)):
        out[title] = {}
        for name, some in runs.items():
            out[title][name] = _measures([_of(run, people) for run in some], runs.get("none"), people)
        first = next(iter(runs.values()))
        for control in ("autoencoder", "still"):
            named = [
                {(c.split(" / ")[0], i): r for (c, i), r in _of(run, people).items() if control in c} for run in first
            ]
            out[title][control] = _measures(named, None, people)
    return out


def _of(run: Run, people: bool) -> Run:
    return {key: row for key, row in run.items() if row.id.endswith("-dynamic") == people}


def _measures(runs: Sequence[Run], none: Sequence[Run] | None, people: bool) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for comparison, what in (("truth", "psnr"), ("truth", "again"), ("revisit", "psnr"), ("revisit", "again")):
        value = columns(runs, comparison, lambda row, what=what: getattr(row, what))
        name = {"psnr": f"{comparison}, dB", "again": f"{comparison}, seen before, dB"}[what]
        cells[name] = bootstrap_runs(np.mean, value)
        if none is not None and what == "again" and len(none) == len(runs):
            base = columns([_of(run, people) for run in none], comparison, lambda row, what=what: getattr(row, what))
            cells[f"{name}, less none's"] = bootstrap_runs(np.mean, value - base)
    return cells


def main(command: Evaluate) -> int:
    """Evaluate; the exit code."""
    config = command.config
    if config.model != "tiny" and not (config.folder / "test" / "bank.json").exists():
        raise InputError("The comparisons are made in rendered rooms, for a model of their size.")
    run = evaluate(command)
    write_tables(config.out / "evaluation.json", tables({config.method: [run]}))
    print(config.out)
    return 0


if __name__ == "__main__":
    run_command(lambda: main(parse(Evaluate, __doc__)))
