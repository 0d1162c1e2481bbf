"""Evaluate whether an unseen room looks the same when the camera comes back.

    python -m recipes.memlearner.evaluate --preset tiny --method learned

There are two comparisons (MemLearner, Evaluation), in rooms without people and in the same rooms with people:

- *truth*: one chunk is generated after a rendered past, and compared with the rendered chunk. A column of its own has
  the frames whose pose occurred in the past, before the camera turned away.
- *revisit*: after one rendered frame, the camera turns by 90° to 180°, waits and turns back. The frames of the way back
  are compared with those generated on the way there, and with the rendered ones.

For methods with queries, the share of their attention on the past is measured too. PSNR is that of the mean squared
error over the frames of a clip. The controls are the autoencoder (upper bound) and a still of the last conditioning
frame (lower bound). Every clip is measured once; the rows are in OUT/measured.jsonl, those of the controls beside the
banks. Intervals are 95 % bootstraps over rooms, for one training run; studies.claims has several runs.

With ``--suite gallery`` both comparisons are of a tour that leaves panels and comes back to them, and the colours of
the panels are measured (`recipes.memlearner.gallery_scores`), once more with the same weights and no past.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from memkit.backbones import WanBackbone
from memkit.cameras import Cameras
from memkit.errors import InputError
from memkit.evaluation import ResultStore, Table, write_tables
from memkit.files.atomic import write_text
from memkit.files.json_files import line_of
from memkit.rollout import ContextMethod, Rollout, RolloutAttention
from memkit.training import find_trained, fingerprint, load_backbone, report_done, run_command
from memkit.video import from_model, to_model, write_video
from memkit.worlds.gallery_tours import GalleryClip
from recipes.memlearner import gallery_scores
from recipes.memlearner.gallery_scores import WITHOUT, GalleryRow
from recipes.memlearner.methods import load_method
from recipes.memlearner.presets import SHIPPED, Command, Suite, parse
from recipes.memlearner.scores import COMPARISONS, Clip, Comparison, Row, clip_of, score, tables, test_rooms, truth

Rows = Mapping[tuple[str, str], Any]
"""Rows of one training run, by condition and id."""
ROWS: dict[Suite, type[Row] | type[GalleryRow]] = {"rooms": Row, "gallery": GalleryRow}
TABLES: dict[Suite, Callable[[Any], dict[str, Table]]] = {"rooms": tables, "gallery": gallery_scores.tables}


@dataclass(frozen=True)
class Evaluate(Command):
    """The command line."""

    rooms: int = 32
    """Number of test rooms, each without people and with people; galleries are twice as many."""
    noise_seed: int = 42
    """Seed of the noise in the first room; each further room adds 1. Compared runs need the same seed."""
    at_once: int = 16
    """Number of rooms per batch."""
    keep: int = 8
    """Number of videos per comparison to keep in OUT/evaluation."""
    comparisons: tuple[Comparison, ...] = COMPARISONS
    """Comparisons to measure."""
    weights: str | None = None
    """Folder of a trained run, or name of weights that memkit ships (memlearner-tiny); by default OUT."""


def evaluate(command: Evaluate, comparisons: Sequence[Comparison] | None = None) -> Rows:
    """Measure what is missing, by default all of the command. Returns the rows of a run and of the controls."""
    comparisons = command.comparisons if comparisons is None else comparisons
    config = command.config
    names = ("model", "sampling_steps", "guidance_scale", "history_guidance", "video_chunks", "budget")
    settings = {name: getattr(config, name) for name in names} | {"noise_seed": command.noise_seed}
    settings |= _suite(command)
    trained = find_trained(config.out, command.weights, SHIPPED)
    backbone = load_backbone(config, trained=trained)
    method = load_method(config, backbone, trained / "method").eval()
    settings["weights"] = fingerprint(backbone.transformer, method)
    rows = ResultStore(config.out / "measured.jsonl", settings, ROWS[config.suite])
    evaluator = Evaluator(command, backbone)
    suffixes = ["", WITHOUT] if config.suite == "gallery" else [""]
    with rows.progress([f"{comparison}{suffix}" for comparison in comparisons for suffix in suffixes], evaluator.names):
        for comparison in comparisons:
            for suffix in suffixes:
                evaluator.measure(comparison, method, rows, suffix)
    return {**controls(command, backbone), **rows.rows}


def controls(command: Evaluate, backbone: WanBackbone | None = None) -> Rows:
    """The rows of the controls, which are stored beside the banks, because they are the same for all methods."""
    config = command.config
    backbone = backbone or load_backbone(config)
    settings = {"model": config.model, "video_chunks": config.video_chunks} | _suite(command)
    rows = ResultStore(config.folder / "controls.jsonl", settings, ROWS[config.suite])
    evaluator = Evaluator(command, backbone)
    with rows.progress([_ceiling(comparison) for comparison in command.comparisons], evaluator.names):
        for comparison in command.comparisons:
            evaluator.measure_controls(comparison, rows)
    return dict(rows.rows)


def _ceiling(comparison: Comparison) -> str:
    """The condition of the true video through the autoencoder."""
    return f"{comparison} / autoencoder"


def _suite(command: Evaluate) -> dict[str, str]:
    """The suite as a setting of a file of rows; files of rooms do not have it."""
    return {} if command.config.suite == "rooms" else {"suite": command.config.suite}


class Evaluator:
    """Generates the clips of the test rooms and scores each once."""

    def __init__(self, command: Evaluate, backbone: WanBackbone) -> None:
        self.command, self.config, self.backbone = command, command.config, backbone
        self.form = backbone.video_format
        self.names = test_rooms(command.rooms, command.config.suite)

    def measure(self, comparison: Comparison, method: ContextMethod, rows: ResultStore[Any], without: str = "") -> None:
        """Add the missing rows of a comparison. Clips of the same length share a batch.

        With a suffix ``without`` of the condition, a chunk sees no past but the frame that it begins with.
        """
        clips = {name: clip_of(comparison, name, self.config, self.form) for name in self.names}
        by_length = sorted(clips, key=lambda name: clips[name].chunks)
        condition = comparison + without
        for batch in rows.batches(condition, by_length, self.command.at_once, key=lambda name: clips[name].chunks):
            self._measure_batch(condition, method, {name: clips[name] for name in batch}, rows)

    def _measure_batch(
        self, condition: str, method: ContextMethod, clips: dict[str, Clip], rows: ResultStore[Any]
    ) -> None:
        truths = [truth(clip, self.form) for clip in clips.values()]
        real = torch.stack([frames for frames, _ in truths])
        c2w, intrinsics = (torch.stack([getattr(at, f) for _, at in truths]) for f in ("c2w", "intrinsics"))
        attention = RolloutAttention(method)
        cameras, forget = Cameras(c2w, intrinsics), condition.endswith(WITHOUT)
        videos = self.roll_out(list(clips), list(clips.values()), real, cameras, attention, forget)
        for i, (name, clip) in enumerate(clips.items()):
            row = self._score(name, condition, clip, videos[i], *attention.means(i))
            if self.names.index(name) < self.command.keep:
                file = rows.file.parent / "evaluation" / f"{name}-{condition.replace(' / ', '-').replace(' ', '-')}.mp4"
                file.parent.mkdir(exist_ok=True)
                write_video(file, torch.cat([videos[i], real[i]], dim=2), self.form.fps)
                if shares := attention.by_chunk(i):
                    write_text(file.with_suffix(".json"), f"[{','.join(line_of(chunk) for chunk in shares)}]\n")
            rows.add(row)

    def roll_out(
        self,
        names: Sequence[str],
        clips: Sequence[Clip],
        real: UInt8[Tensor, "batch frames h w 3"],
        cameras: Cameras,
        attention: RolloutAttention,
        forget: bool = False,
    ) -> UInt8[Tensor, "batch frames h w 3"]:
        """The conditioning frames, and what is generated after them, chunk by chunk.

        With ``forget``, every chunk is the first of a rollout that begins with the last frame.
        """
        count, stride = clips[0].conditioning_frames(self.form), self.form.num_frames - 1
        seeds = [self.command.noise_seed + self.names.index(name) // 2 for name in names]  # as without people
        video = [real[:, :count]]
        rollout = self._rollout(attention.method, real[:, :count], cameras, 0)
        for chunk in range(clips[0].chunks):
            start = count - 1 + chunk * stride
            part = slice(start, start + stride + 1)
            if forget:
                rollout = self._rollout(attention.method, video[-1][:, -1:], cameras, start)
            prompts = [clip.caption(start / self.form.fps) for clip in clips]
            with_cameras = Cameras(cameras.c2w[:, part], cameras.intrinsics[:, part])
            with attention.chunk(rollout):
                frames = rollout.generate(prompts, with_cameras, [seed + 1000 * chunk for seed in seeds])
            video.append(frames[:, 1:])
        return torch.cat(video, dim=1)

    def _rollout(
        self, method: ContextMethod, past: UInt8[Tensor, "batch frames h w 3"], cameras: Cameras, start: int
    ) -> Rollout:
        """A rollout that has seen ``past``, the first of whose frames is frame ``start`` of the ``cameras``."""
        config, seen = self.config, slice(start, start + past.shape[1])
        rollout = Rollout(
            self.backbone,
            method,
            budget=config.budget and config.budget * len(past),
            steps=config.sampling_steps,
            guidance_scale=config.guidance_scale,
            annotation=config.annotations[0],
        )
        rollout.observe(past, Cameras(cameras.c2w[:, seen], cameras.intrinsics[:, seen]))
        return rollout

    def _score(
        self,
        name: str,
        condition: str,
        clip: Clip,
        video: UInt8[Tensor, "frames h w 3"],
        attention: float = math.nan,
        followed: float = math.nan,
    ) -> Row | GalleryRow:
        """The scores of a video of a clip."""
        (real, cameras), count = truth(clip, self.form), clip.conditioning_frames(self.form)
        if isinstance(clip.room, GalleryClip):
            form = self.form
            return gallery_scores.score(
                condition, clip.room, form.fps, video, real, count, form.num_frames, attention, followed
            )
        return score(name, condition, video, real, cameras, count, attention, followed)

    def measure_controls(self, comparison: Comparison, rows: ResultStore[Any]) -> None:
        """Add the missing rows of the truth through the autoencoder, and of a still of the last conditioning frame."""
        floor, ceiling = f"{comparison} / still", _ceiling(comparison)
        for (name,) in rows.batches(ceiling, self.names, 1):
            clip = clip_of(comparison, name, self.config, self.form)
            (real, _), count = truth(clip, self.form), clip.conditioning_frames(self.form)
            still = torch.cat([real[:count], real[count - 1 : count].expand(len(real) - count, -1, -1, -1)])
            rows.add(self._score(name, floor, clip, still))
            rows.add(self._score(name, ceiling, clip, self.through_autoencoder(real)))

    @torch.no_grad()
    def through_autoencoder(self, real: UInt8[Tensor, "frames h w 3"]) -> UInt8[Tensor, "frames h w 3"]:
        """Encode and decode the frames, chunk by chunk."""
        stride, out = self.form.num_frames - 1, [real[:1]]
        for start in range(0, len(real) - 1, stride):
            video: Float[Tensor, "1 3 t h w"] = to_model(real[start : start + stride + 1]).to(self.backbone.device)
            out.append(from_model(self.backbone.decode_latents(self.backbone.encode_video(video))).cpu()[1:])
        return torch.cat(out)


def main(command: Evaluate) -> int:
    """Evaluate. Returns the exit code."""
    config = command.config
    if config.model != "tiny" and not (config.folder / "test" / "bank.json").exists():
        raise InputError("The comparisons need rendered rooms and a model of their size; see memlearner.prepare.")
    file = config.out / "evaluation.json"
    write_tables(file, TABLES[config.suite]({config.method: [evaluate(command)]}))
    report_done(file, "python -m recipes.memlearner.studies.claims --claim methods")
    return 0


if __name__ == "__main__":
    run_command(lambda: main(parse(Evaluate, __doc__)))
