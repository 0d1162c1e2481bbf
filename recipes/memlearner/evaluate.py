"""Does a place look the same when the camera comes back? Measured in unseen rooms.

    python -m recipes.memlearner.evaluate --preset tiny --method learned

Two comparisons (MemLearner, Evaluation), in rooms without people and in the same rooms with them:

- *truth*: the past is real, one chunk is generated, and compared with the real one. Frames whose pose occurred in the
  past, with the camera away since, also have a column of their own.
- *revisit*: from one real frame the camera turns by 90° to 180°, waits and turns back, chunk after chunk; frames of the
  way back are compared with those generated on the way there, and with the truth.

For methods with queries, the share of the queries' attention on the past is measured too. PSNR is of the mean squared
error over a clip's frames. Beside every method stand the autoencoder (the ceiling) and a still of the last given frame
(the floor). Every clip is measured once: OUT/measured.jsonl; rows that no method changes lie beside the banks.
Intervals are 95 % bootstraps over rooms, for one training run; studies.claims has several runs.
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
    """Number of test rooms, each without people and with them."""
    noise_seed: int = 42
    """Seed of the noise in the first room; the next rooms count up. Runs that are compared share it."""
    at_once: int = 16
    """Rooms per batch."""
    keep: int = 8
    """Number of videos per comparison to keep in OUT/evaluation."""


def evaluate(command: Evaluate, comparisons: Sequence[Comparison] = COMPARISONS) -> Run:
    """All rows of a run, with those that no method changes; what is missing is measured."""
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
    """The rows that no method changes, which lie beside the banks; training leaves the autoencoder as it is."""
    config = command.config
    backbone = backbone or load_backbone(config)
    settings = {"model": config.model, "video_chunks": config.video_chunks}
    rows = ResultStore(config.folder / "controls.jsonl", settings, Row)
    for comparison in COMPARISONS:
        Evaluator(command, backbone).measure_controls(comparison, rows)
    return dict(rows.rows)


class Evaluator:
    """Generates the clips of the test rooms and scores them, each once."""

    def __init__(self, command: Evaluate, backbone: WanBackbone) -> None:
        self.command, self.config, self.backbone = command, command.config, backbone
        self.form = backbone.video_format
        self.names = test_rooms(command.rooms)

    def measure(self, comparison: Comparison, method: ContextMethod, rows: ResultStore[Row]) -> None:
        """Add the missing rows of a comparison; clips of one length share a batch."""
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
            given, cameras = clip.given(self.form), truths[i][1]
            row = score(name, comparison, videos[i], real[i], cameras, given, *attention.means(i))
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
        """The given frames, and what is generated after them, chunk by chunk."""
        config, given, stride = self.config, clips[0].given(self.form), self.form.num_frames - 1
        seeds = [self.command.noise_seed + self.names.index(name) // 2 for name in names]  # with people and without
        rollout = Rollout(
            self.backbone,
            attention.method,
            budget=config.budget and config.budget * len(names),
            steps=config.sampling_steps,
            guidance_scale=config.guidance_scale,
            annotation=config.annotations[0],
        )
        rollout.observe(real[:, :given], Cameras(cameras.c2w[:, :given], cameras.intrinsics[:, :given]))
        video = [real[:, :given]]
        for chunk in range(clips[0].chunks):
            start = given - 1 + chunk * stride
            part = slice(start, start + stride + 1)
            prompts = [clip.caption(start / self.form.fps) for clip in clips]
            with_cameras = Cameras(cameras.c2w[:, part], cameras.intrinsics[:, part])
            with attention.chunk(rollout):
                frames = rollout.generate(prompts, with_cameras, [seed + 1000 * chunk for seed in seeds])
            video.append(frames[:, 1:])
        return torch.cat(video, dim=1)

    def measure_controls(self, comparison: Comparison, rows: ResultStore[Row]) -> None:
        """Add the missing rows of the truth through the autoencoder, and of a still of the last given frame."""
        floor, ceiling = f"{comparison} / still", f"{comparison} / autoencoder"
        for name in tqdm(rows.missing(ceiling, self.names), desc=f"{comparison}, controls"):
            clip = clip_of(comparison, name, self.config, self.form)
            (real, cameras), given = truth(clip, self.form), clip.given(self.form)
            still = torch.cat([real[:given], real[given - 1 : given].expand(len(real) - given, -1, -1, -1)])
            rows.add(score(name, floor, still, real, cameras, given))
            rows.add(score(name, ceiling, self._through_autoencoder(real), real, cameras, given))

    @torch.no_grad()
    def _through_autoencoder(self, real: UInt8[Tensor, "frames h w 3"]) -> UInt8[Tensor, "frames h w 3"]:
        """Encoded and decoded, chunk by chunk."""
        stride, out = self.form.num_frames - 1, [real[:1]]
        for start in range(0, len(real) - 1, stride):
            video: Float[Tensor, "1 3 t h w"] = to_model(real[start : start + stride + 1]).to(self.backbone.device)
            out.append(from_model(self.backbone.decode_latents(self.backbone.encode_video(video))).cpu()[1:])
        return torch.cat(out)


def main(command: Evaluate) -> int:
    """Evaluate; the exit code."""
    config = command.config
    if config.model != "tiny" and not (config.folder / "test" / "bank.json").exists():
        raise InputError("The comparisons need rendered rooms and a model of their size; see memlearner.prepare.")
    file = config.out / "evaluation.json"
    write_tables(file, tables({config.method: [evaluate(command)]}))
    report_done(file, "python -m recipes.memlearner.studies.claims --claim methods")
    return 0


if __name__ == "__main__":
    run_command(lambda: main(parse(Evaluate, __doc__)))
