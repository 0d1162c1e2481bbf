"""Does memory carry the law? Generate planets that nothing was trained on, with controls, and measure the pixels.

    python -m recipes.dit_mem.evaluate --preset tiny

The prompts are captions of OUT/bank-test, of which only the other clips of a planet tell its gravity. From the same
noise each is generated with no memory; with its retrieved clips (never its own); with as many clips of one wrong
planet; and with its own clip, the oracle. Above these stands what the estimator says of the clips themselves, rendered
and through the autoencoder: no condition can do better. Intervals are 95 % bootstraps over the clips of these
planets. OUT/results.json has every number.

    python -m recipes.dit_mem.evaluate --preset wan2.1-1.3b --benchmark phygenbench --prompts prompts.json
    python -m recipes.dit_mem.evaluate --preset wan2.1-1.3b --benchmark vbench --prompts prompts/prompts_per_category

These make the videos of a public benchmark, for its own scorer; see docs/benchmarks.md.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from torch import Tensor
from tqdm import tqdm

from memkit.backbones import WanBackbone
from memkit.bank import MemoryBank
from memkit.encoders import FrequencyEncoder
from memkit.errors import InputError
from memkit.generate import generate_videos
from memkit.injectors import MemoryGate
from memkit.metrics import Interval, bootstrap, correlation, measure_law
from memkit.video import write_video
from recipes.dit_mem import benchmarks
from recipes.dit_mem.laws import law_of, planets_of
from recipes.dit_mem.memories import encode, find
from recipes.dit_mem.parts import load_backbone, load_encoder, run_command
from recipes.dit_mem.presets import Command, Config, parse

CONDITIONS = ("none", "retrieved", "random", "oracle")


@dataclass(frozen=True)
class Evaluate(Command):
    """The command line."""

    clips: int = 48
    """Prompts, taken in turn from the planets."""
    keep: int = 8
    """Videos of each condition to keep in OUT/evaluation."""
    public: Annotated[benchmarks.Public, tyro.conf.arg(name="")] = field(default_factory=benchmarks.Public)


@dataclass(frozen=True)
class Row:
    """One generated clip: the law it should obey, the mean gravity of the clips it was shown, and what was measured."""

    id: str
    condition: str
    shown: list[str]
    gravity: float
    shown_gravity: float
    found: bool
    fitted: float
    state_error: float
    law_residual: float


def choose(config: Config, bank: MemoryBank, targets: Sequence[str]) -> dict[str, list[list[str]]]:
    """The clips that each target is shown in each condition."""
    prompts = [law_of(id).caption for id in targets]
    planets = planets_of(bank)
    wrong = []
    for id in targets:
        rng = random.Random(f"{config.seed}/{id}")
        other = rng.choice([planet for planet in planets if planet != law_of(id).planet])
        wrong.append([clip for clip in bank.ids if clip not in set(planets[other])])
    return {
        "none": [[] for _ in targets],
        "retrieved": [hits.ids for hits in find(config, bank, prompts, "retrieved", [[id] for id in targets])],
        "random": [hits.ids for hits in find(config, bank, prompts, "random", wrong)],
        "oracle": [[id] for id in targets],
    }


def measure(video: Tensor, id: str, condition: str, shown: list[str], fps: float) -> Row:
    """One row."""
    law = law_of(id)
    found = measure_law(video, law, fps)
    gravities = [float(law_of(clip).gravity) for clip in shown]
    mean = sum(gravities) / len(gravities) if gravities else math.nan
    errors = (found.state_error, found.law_residual)
    return Row(id, condition, shown, float(law.gravity), mean, found.found, found.gravity, *errors)


def truth_rows(backbone: WanBackbone, bank: MemoryBank, targets: Sequence[str]) -> list[Row]:
    """What the estimator says of the clips themselves."""
    form = backbone.video_format
    rows = []
    for id in tqdm(targets, desc="truth"):
        law = law_of(id)
        rendered = law.video(form.num_frames, form.fps, form.height)
        decoded = backbone.decode_latents(bank.latents([id])[0])[0].float().cpu()
        frames = ((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0)
        rows.append(measure(rendered, id, "rendered truth", [], form.fps))
        rows.append(measure(frames, id, "through the autoencoder", [], form.fps))
    return rows


def generated_rows(
    command: Evaluate,
    backbone: WanBackbone,
    encoder: FrequencyEncoder,
    gate: MemoryGate | None,
    bank: MemoryBank,
    targets: Sequence[str],
) -> list[Row]:
    """Every condition on every target; a target has the same noise in all of them."""
    config, fps = command.config, backbone.video_format.fps
    folder = config.out / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    shown = choose(config, bank, targets)
    rows = []
    for condition in CONDITIONS:
        for start in tqdm(range(0, len(targets), config.videos_at_once), desc=condition):
            index = range(start, min(start + config.videos_at_once, len(targets)))
            videos = generate_videos(
                backbone,
                [law_of(targets[i]).caption for i in index],
                encode(encoder, bank, [shown[condition][i] for i in index]),
                seeds=[config.seed + i for i in index],
                steps=config.sampling_steps,
                guidance_scale=config.guidance_scale,
                negative_prompt=config.negative_prompt,
                gate=gate,
            )
            for i, frames in zip(index, videos, strict=True):
                rows.append(measure(frames, targets[i], condition, shown[condition][i], fps))
                if i < command.keep:
                    write_video(folder / f"{i:02d}-{condition}.mp4", frames, fps)
    return rows


def summarise(rows: Sequence[Row]) -> dict[str, dict[str, Interval]]:
    """The measures of each condition, with intervals over its clips; errors and correlations are over those found.

    A clip in which nothing falls for long enough has a state but no gravity, and is left out of the gravity's measures.
    """
    table = {}
    for condition in dict.fromkeys(row.condition for row in rows):
        mine = [row for row in rows if row.condition == condition]
        hit = [row for row in mine if row.found]
        path, law = np.array([(row.state_error, row.law_residual) for row in hit]).reshape(-1, 2).T
        fell = [row for row in hit if not math.isnan(row.fitted)]
        truth, fitted, shown = np.array([(r.gravity, r.fitted, r.shown_gravity) for r in fell]).reshape(-1, 3).T
        table[condition] = {
            "found": bootstrap(np.mean, np.array([float(row.found) for row in mine])),
            "state error, m": bootstrap(np.mean, path),
            "law residual, m": bootstrap(np.mean, law),
            "gravity error, m/s²": bootstrap(np.mean, np.abs(fitted - truth)),
            "gravity, correlation with truth": bootstrap(correlation, fitted, truth),
            "gravity, correlation with the clips shown": bootstrap(correlation, fitted, shown),
        }
    return table


def against_none(rows: Sequence[Row]) -> dict[str, dict[str, Interval]]:
    """Errors less those without memory, in pairs of the same prompt and noise, where both were found."""
    by = {(row.condition, row.id): row for row in rows if row.found}
    ids = dict.fromkeys(row.id for row in rows)
    table = {}
    for condition in CONDITIONS[1:]:
        pairs = [(by[condition, id], by["none", id]) for id in ids if (condition, id) in by and ("none", id) in by]
        errors = [abs(a.fitted - a.gravity) - abs(b.fitted - b.gravity) for a, b in pairs]
        gravity = [error for error in errors if not math.isnan(error)]
        table[condition] = {
            "state error, m": bootstrap(np.mean, np.array([a.state_error - b.state_error for a, b in pairs])),
            "law residual, m": bootstrap(np.mean, np.array([a.law_residual - b.law_residual for a, b in pairs])),
            "gravity error, m/s²": bootstrap(np.mean, np.array(gravity)),
        }
    return table


def markdown(table: dict[str, dict[str, Interval]]) -> str:
    """A table with one row a condition."""
    measures = list(next(iter(table.values())))
    lines = ["| | " + " | ".join(measures) + " |", "|---" * (len(measures) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(_cell(row[m]) for m in measures) + " |" for name, row in table.items()]
    return "\n".join(lines)


def _cell(value: Interval) -> str:
    if math.isnan(value.value):
        return "–"
    return f"{value.value:.2f} [{value.low:.2f}, {value.high:.2f}]"


def _plain(value: Any) -> Any:
    """As JSON has it: NaN is null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def main(command: Evaluate) -> int:
    """Evaluate; the exit code."""
    config = command.config
    if command.public.benchmark != "laws":
        if (command.clips, command.keep) != (Evaluate.clips, Evaluate.keep):
            raise InputError(f"--clips and --keep are not for {command.public.benchmark}; see --first.")
        return benchmarks.main(config, command.public)
    if command.public != benchmarks.Public():
        raise InputError("The laws world takes no flag of the public benchmarks; give --benchmark, or leave them out.")
    if not (config.test_bank / "bank.json").exists():
        raise InputError(f"There is no bank {config.test_bank}; run recipes.dit_mem.prepare without --videos.")
    bank = MemoryBank.open(config.test_bank)
    if bank.info.get("world") != "laws" or len(bank) < command.clips:
        raise InputError(f"{config.test_bank} is no bank of {command.clips} clips of the laws world; see prepare.")
    targets = bank.ids[: command.clips]
    backbone = load_backbone(config)
    encoder, gate = load_encoder(config.encoder_folder, backbone)
    rows = truth_rows(backbone, bank, targets) + generated_rows(command, backbone, encoder, gate, bank, targets)
    summary, paired = summarise(rows), against_none(rows)
    results = {
        "settings": json.loads(json.dumps(asdict(config), default=str)),
        "bank": bank.fingerprint,
        "conditions": {name: {m: i._asdict() for m, i in row.items()} for name, row in summary.items()},
        "less no memory": {name: {m: i._asdict() for m, i in row.items()} for name, row in paired.items()},
        "clips": [asdict(row) for row in rows],
    }
    file = config.out / "results.json"
    file.write_text(json.dumps(_plain(results), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    print(f"{markdown(summary)}\n\nLess no memory, pairwise:\n\n{markdown(paired)}\n\n{file}")
    return 0


if __name__ == "__main__":
    run_command(lambda: main(parse(Evaluate, __doc__)))
