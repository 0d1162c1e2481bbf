"""Compare memory with fine-tuning: train all weights of the backbone on the clips that memory would show it.

    python -m recipes.dit_mem.studies.full --preset tiny --measure-at 150
    python -m recipes.dit_mem.studies.full --preset tiny --data train --seeds 42 1 2

The names in the test bank stand for constants that only its clips show. Memory retrieves these clips; here the weights
learn from them, except for those of the prompts. With ``--data train`` they learn from the training clips of the
encoder, which have other names. Loss and settings are those of `recipes.dit_mem.train`, except for steps and learning
rate. Prompts, noise and sampler are those of `recipes.dit_mem.evaluate`, whose frozen backbone without memory is step
0. At an earlier measured step of a run, the learning rate has not decreased yet; ``--full-steps`` ends a run there.

The loss on clips of other laws, with the same noise at each step, shows how much the training changes other abilities
of the model. Memory does not change the backbone.

OUT/full (or OUT/full-train; for seeds other than --seed below OUT/seed-N) has the checkpoint, the log, the measured
rows and videos; OUT/full.json has the tables. Intervals are over prompts and runs. A command that was stopped continues
where it was. The folder of the backbone is not changed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from memkit.backbones import WanBackbone
from memkit.banks import MemoryBank
from memkit.errors import InputError
from memkit.evaluation import Cells, ResultStore, Table, exactly, interval, parallel_map, write_tables
from memkit.flow import NUM_TRAIN_TIMESTEPS
from memkit.generation import TextCache
from memkit.generation.short_text import PIPELINE_TEXT_LENGTH
from memkit.training import fingerprint, open_bank, report_done, run_command, run_settings
from memkit.video import to_model
from memkit.worlds import LAWS, sample_law
from memkit.worlds.law_clips import FALLS, PROCESSES
from recipes.dit_mem.conditions import Condition
from recipes.dit_mem.data import Samples, draw_noise
from recipes.dit_mem.evaluate import Evaluator, Prompts, open_evaluator
from recipes.dit_mem.presets import Config, parse
from recipes.dit_mem.scores import UNITS, Row, Run, digits
from recipes.dit_mem.scores import tables as score_tables
from recipes.dit_mem.step import flow_losses
from recipes.dit_mem.studies.tuning import Clips, Tuning

OTHER_LAWS = tuple(law.kind for law in LAWS if law.kind not in (*FALLS, *PROCESSES))
OTHER_CLIPS = 64
DECIDE = {"model", "dtype", "seed", "steps", "batch", "lr", "warmup", "schedule", "clip_norm", "shift", "weighting"}
DECIDE |= {"drop_text", "text_length", "checkpointing", "image_cond_prob"}
"""Settings that determine the weights."""
SAMPLER = {"sampling_steps", "guidance_scale", "flow_shift", "negative_prompt"}


@dataclass(frozen=True)
class Full(Prompts):
    """The command line."""

    data: Literal["test", "train"] = "test"
    """Training clips: those of the test bank that are not prompts, or those of the encoder."""
    full_steps: int = 600
    """Number of training steps; --steps is that of the encoder."""
    full_lr: float = 3e-4
    """Peak learning rate; --lr is that of the encoder."""
    seeds: tuple[int, ...] = ()
    """Seeds of the training runs, one run per seed; by default --seed alone."""
    jobs: int = 1
    """Number of runs to train at once, each in a process with one thread."""
    measure_at: tuple[int, ...] = ()
    """Steps after which to measure, in addition to 0 and the last step."""

    @property
    def name(self) -> str:
        """Name of the folder and of the JSON file."""
        return "full" if self.data == "test" else "full-train"

    @property
    def tuned(self) -> Config:
        """The settings of the training, in a folder of its own beside the banks."""
        config = self.config
        return replace(config, steps=self.full_steps, lr=self.full_lr, out=config.out / self.name, banks=config.folder)

    @property
    def evaluation(self) -> Full:
        """The same prompts with the settings of the training."""
        return replace(self, config=self.tuned)

    def run(self, seed: int) -> Full:
        """The command of one training run."""
        config = self.config
        out = config.out if seed == config.seed else config.out / f"seed-{seed}"
        return replace(self, config=replace(config, seed=seed, out=out, banks=config.folder))


class Tuned(NamedTuple):
    """The measurements of one run."""

    rows: Run
    forgot: dict[int, Tensor]
    """Losses on clips of other laws, by number of steps; 0 is the frozen backbone."""
    seconds: dict[int, float]
    """Seconds of training, by number of steps."""
    parameters: int
    clips: int
    """Number of training clips."""


def training_clips(command: Full, test_bank: MemoryBank) -> Clips:
    """The training clips, without prompts. Raises `InputError` if there are none."""
    config = command.tuned
    if command.data == "train":
        bank = open_bank(config.bank, "recipes.dit_mem.prepare")
        return Clips(bank, bank.ids, config)
    if len(test_bank) <= command.clips:
        raise InputError(f"{test_bank.path} has no clip besides the {command.clips} prompts; give fewer --clips.")
    return Clips(test_bank, test_bank.ids[command.clips :], config)


def other_laws(backbone: WanBackbone, shift: float) -> Samples:
    """The same clips of laws that are neither falls nor processes, at evenly spread noise levels."""
    form = backbone.video_format
    laws = [sample_law(random.Random(f"forget/{i}"), "train", OTHER_LAWS) for i in range(OTHER_CLIPS)]
    videos = (to_model(law.video(form.num_frames, form.fps, form.height)) for law in laws)
    latents = torch.cat([backbone.encode_video(video).cpu() for video in videos]).float()
    levels = [int((i + 0.5) / OTHER_CLIPS * NUM_TRAIN_TIMESTEPS) for i in range(OTHER_CLIPS)]
    return Samples([law.caption for law in laws], latents, *draw_noise(latents, range(OTHER_CLIPS), levels, shift), 0)


@torch.no_grad()
def losses_on(text: TextCache, samples: Samples, at_once: int) -> Float[Tensor, " batch"]:
    """Flow-matching loss of each sample, with the text length of the pipeline."""
    losses = []
    for i in range(0, len(samples.captions), at_once):
        with ExitStack() as attached:
            losses.append(flow_losses(text.backbone, text, samples.part(slice(i, i + at_once)), attached))
    return torch.cat(losses).cpu()


def fine_tune(command: Full) -> Tuned:
    """Train and measure what is missing of one run."""
    config, points = command.tuned, sorted({*command.measure_at, command.full_steps} - {0})
    if not points or points[0] < 0 or points[-1] > command.full_steps:
        raise InputError(f"--measure-at {command.measure_at} is not within the {command.full_steps} --full-steps.")
    evaluator = open_evaluator(command.evaluation)
    backbone, data = evaluator.backbone, training_clips(command, evaluator.bank)
    about = _about(config, DECIDE, data, backbone)
    settings = _about(config, DECIDE | SAMPLER, data, backbone)
    settings |= {"prompts": evaluator.bank.fingerprint, "noise_seed": command.noise_seed}
    rows = ResultStore(config.out / f"measured{command.suffix}.jsonl", settings, Row)
    run = dict(evaluator.measure_without_memory())
    others, text = other_laws(backbone, config.shift), TextCache(backbone, PIPELINE_TEXT_LENGTH)
    forgot = {0: losses_on(text, others, config.videos_at_once)}
    tuning = Tuning(backbone, data, about)
    _check_reachable(tuning, rows, points, evaluator)
    for point in points:
        name = _name(point)
        tuning.until(point)
        evaluator.measure(name, Condition([[] for _ in evaluator.targets]), rows)
        if point not in tuning.kept:
            tuning.kept[point] = losses_on(text, others, config.videos_at_once)
        forgot[point] = tuning.kept[point]
        run |= {(name, id): rows.rows[name, id] for id in evaluator.targets}
    seconds = {point: tuning.seconds(point) for point in points}
    return Tuned(run, forgot, seconds, tuning.parameters, len(data.ids))


def _about(config: Config, names: set[str], data: Clips, backbone: WanBackbone) -> dict[str, Any]:
    """The identity of a run: settings, clips, and initial weights."""
    made_of = {"bank": data.bank.fingerprint, "clips": len(data.ids), "backbone": fingerprint(*backbone.transformers)}
    return run_settings(config, [field.name for field in fields(config) if field.name not in names], **made_of)


def _check_reachable(tuning: Tuning, rows: ResultStore[Row], points: list[int], evaluator: Evaluator) -> None:
    for point in points:
        missing = point not in tuning.kept or rows.missing(_name(point), evaluator.targets)
        if point < tuning.step and missing:
            raise InputError(
                f"{tuning.file} is past step {point}, which was not measured; leave it out of --measure-at, "
                "measure as many --clips as before, or give another --out and --banks."
            )


def _name(point: int) -> str:
    return f"{point} steps" if point else "none"


def tables(runs: Sequence[Tuned]) -> dict[str, Table]:
    """The table "cost" with errors and forgetting by steps, and the tables of every evaluation."""
    first, cost = runs[0], {}
    usual = score_tables([run.rows for run in runs], [_name(point) for point in first.forgot])
    frozen = _thousandths(runs, 0)
    for point in first.forgot:
        trained = [0.0, 0.0, 0.0]
        if point:
            seconds = float(np.mean([run.seconds[point] for run in runs]))
            trained = [first.parameters / 1e6, float(first.clips), seconds]
        cells: Cells = dict(zip(("trained, M", "clips of data", "training, s"), map(exactly, trained), strict=True))
        for constant, table in list(usual.items())[1:]:
            cells[f"{constant}, error in {UNITS[constant]}"] = table[_name(point)]["error"]
            cells[f"{constant}, less none"] = table[_name(point)]["less none"]
        now = _thousandths(runs, point)
        cells["loss on other laws, 1/1000"] = interval(np.mean, now)
        cells["less the frozen one's"] = interval(np.mean, now - frozen)
        cost[_name(point)] = cells
    return {"cost": cost, **usual}


def _thousandths(runs: Sequence[Tuned], point: int) -> np.ndarray:
    """Losses on other laws × 1000, [runs, clips]."""
    return 1000 * np.stack([run.forgot[point].double().numpy() for run in runs])


def main(command: Full) -> int:
    """Train, measure, print the tables and write them. Returns the exit code."""
    commands = [command.run(seed) for seed in command.seeds or [command.config.seed]]
    if command.jobs > 1:
        open_evaluator(command.evaluation).measure_without_memory()  # written once, for all runs
    runs = parallel_map(fine_tune, commands, command.jobs)
    file = command.config.out / f"{command.name}{command.suffix}.json"
    write_tables(file, tables(runs), UNITS, digits)
    report_done(file)
    return 0


if __name__ == "__main__":
    run_command(lambda: main(parse(Full, __doc__)))
