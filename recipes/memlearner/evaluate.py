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
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from memkit.backbones import WanBackbone
from memkit.cameras import Cameras
from memkit.errors import InputError
from memkit.evaluation import ResultStore, write_tables
from memkit.files.atomic import write_text
from memkit.files.json_files import line_of
from memkit.rollout import ContextMethod, Rollout, RolloutAttention
from memkit.training import fingerprint, load_backbone, report_done, run_command
from memkit.video import from_model, to_model, write_video
from recipes.memlearner.methods import load_method
from recipes.memlearner.presets import Command, parse
from recipes.memlearner.scores import COMPARISONS, Clip, Comparison, Row, Run, clip_of, score, tables, test_rooms, truth


@dataclass(frozen=True)
class Evaluate(Command):
    """The command line."""

    rooms: int = 32
    """Number of test rooms, each without people and with people."""
    noise_seed: int = 42
    """Seed of the noise in the first room; each further room adds 1. Compared runs need the same seed."""
    at_once: int = 16
    """Number of rooms per batch."""
    keep: int = 8
    """Number of videos per comparison to keep in OUT/evaluation."""


def evaluate(command: Evaluate, comparisons: Sequence[Comparison] = COMPARISONS) -> Run:
    """Measure what is missing. Returns the rows of a run and of the controls."""
    config = command.config
    names = ("model", "sampling_steps", "guidance_scale", "history_guidance", "video_chunks", "budget")
    settings = {name: getattr(config, name) for name in names} | {"noise_seed": command.noise_seed}
    backbone = load_backbone(config, trained=config.out)
    method = load_method(config, backbone, config.out / "method").eval()
    settings["weights"] = fingerprint(backbone.transformer, method)
    rows = ResultStore(config.out / "measured.jsonl", settings, Row)
    evaluator = Evaluator(command, backbone)
    for comparison in comparisons:
        evaluator.measure(comparison, method, rows)
    return {**controls(command, backbone), **rows.rows}


def controls(command: Evaluate, backbone: WanBackbone | None = None) -> Run:
    """The rows of the controls, which are stored beside the banks, because they are the same for all methods."""
    config = command.config
    backbone = backbone or load_backbone(config)
    settings = {"model": config.model, "video_chunks": config.video_chunks}
    rows = ResultStore(config.folder / "controls.jsonl", settings, Row)
    for comparison in COMPARISONS:
        Evaluator(command, backbone).measure_controls(comparison, rows)
    return dict(rows.rows)


class Evaluator:
    """Generates the clips of the test rooms and scores each once."""

    def __init__(self, command: Evaluate, backbone: WanBackbone) -> None:
        self.command, self.config, self.backbone = command, command.config, backbone
        self.form = backbone.video_format
        self.names = test_rooms(command.rooms)

    def measure(self, comparison: Comparison, method: ContextMethod, rows: ResultStore[Row]) -> None:
        """Add the missing rows of a comparison. Clips of the same length share a batch."""
        clips = {name: clip_of(comparison, name, self.config, self.form) for name in self.names}
        by_length = sorted(clips, key=lambda name: clips[name].chunks)
        for batch in rows.batches(comparison, by_length, self.command.at_once, key=lambda name: clips[name].chunks):
            self._measure_batch(comparison, method, {name: clips[name] for name in batch}, rows)

    def _measure_batch(
        self, comparison: Comparison, method: ContextMethod, clips: dict[str, Clip], rows: ResultStore[Row]
    ) -> None:
        truths = [truth(clip, self.form) for clip in clips.values()]
        real = torch.stack([frames for frames, _ in truths])
        c2w, intrinsics = (torch.stack([getattr(at, f) for _, at in truths]) for f in ("c2w", "intrinsics"))
        attention = RolloutAttention(method)
        videos = self._roll_out(list(clips), list(clips.values()), real, Cameras(c2w, intrinsics), attention)
        for i, (name, clip) in enumerate(clips.items()):
            count, cameras = clip.conditioning_frames(self.form), truths[i][1]
            row = score(name, comparison, videos[i], real[i], cameras, count, *attention.means(i))
            if self.names.index(name) < self.command.keep:
                file = rows.file.parent / "evaluation" / f"{name}-{comparison}.mp4"
                file.parent.mkdir(exist_ok=True)
                write_video(file, torch.cat([videos[i], real[i]], dim=2), self.form.fps)
                if shares := attention.by_chunk(i):
                    write_text(file.with_suffix(".json"), f"[{','.join(line_of(chunk) for chunk in shares)}]\n")
            rows.add(row)

    def _roll_out(
        self,
        names: Sequence[str],
        clips: Sequence[Clip],
        real: UInt8[Tensor, "batch frames h w 3"],
        cameras: Cameras,
        attention: RolloutAttention,
    ) -> UInt8[Tensor, "batch frames h w 3"]:
        """The conditioning frames, and what is generated after them, chunk by chunk."""
        config, count, stride = self.config, clips[0].conditioning_frames(self.form), self.form.num_frames - 1
        seeds = [self.command.noise_seed + self.names.index(name) // 2 for name in names]  # as without people
        rollout = Rollout(
            self.backbone,
            attention.method,
            budget=config.budget and config.budget * len(names),
            steps=config.sampling_steps,
            guidance_scale=config.guidance_scale,
            annotation=config.annotations[0],
        )
        rollout.observe(real[:, :count], Cameras(cameras.c2w[:, :count], cameras.intrinsics[:, :count]))
        video = [real[:, :count]]
        for chunk in range(clips[0].chunks):
            start = count - 1 + chunk * stride
            part = slice(start, start + stride + 1)
            prompts = [clip.caption(start / self.form.fps) for clip in clips]
            with_cameras = Cameras(cameras.c2w[:, part], cameras.intrinsics[:, part])
            with attention.chunk(rollout):
                frames = rollout.generate(prompts, with_cameras, [seed + 1000 * chunk for seed in seeds])
            video.append(frames[:, 1:])
        return torch.cat(video, dim=1)

    def measure_controls(self, comparison: Comparison, rows: ResultStore[Row]) -> None:
        """Add the missing rows of the truth through the autoencoder, and of a still of the last conditioning frame."""
        floor, ceiling = f"{comparison} / still", f"{comparison} / autoencoder"
        for name in tqdm(rows.missing(ceiling, self.names), desc=f"{comparison}, controls"):
            clip = clip_of(comparison, name, self.config, self.form)
            (real, cameras), count = truth(clip, self.form), clip.conditioning_frames(self.form)
            still = torch.cat([real[:count], real[count - 1 : count].expand(len(real) - count, -1, -1, -1)])
            rows.add(score(name, floor, still, real, cameras, count))
            rows.add(score(name, ceiling, self._through_autoencoder(real), real, cameras, count))

    @torch.no_grad()
    def _through_autoencoder(self, real: UInt8[Tensor, "frames h w 3"]) -> UInt8[Tensor, "frames h w 3"]:
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
    write_tables(file, tables({config.method: [evaluate(command)]}))
    report_done(file, "python -m recipes.memlearner.studies.claims --claim methods")
    return 0


if __name__ == "__main__":
    run_command(lambda: main(parse(Evaluate, __doc__)))
