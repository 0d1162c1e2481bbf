"""Copy a trained tiny-wan into the package, with its model card, its training logs and its page in docs/.

python -m recipes.tiny_wan.ship --machine "2 cores of an AMD EPYC, no accelerator"
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from safetensors import safe_open

from memkit.backbones.codec import tiny_folder
from memkit.files.atomic import write_text
from memkit.files.checksums import verify_sums, write_sums
from memkit.files.json_files import read_json
from memkit.training import read_run_log, run_command
from memkit.worlds.clip_set import SUITES, ClipSet
from memkit.worlds.constants import MATERIALS, PLANETS, SUBSTANCES
from recipes.tiny_wan.evaluate import EvaluateConfig
from recipes.tiny_wan.stages import Stage, TransformerConfig
from recipes.tiny_wan.vae import VAEConfig

TEMPLATES = {"card": Path(__file__).with_name("card.md"), "page": Path(__file__).with_name("page.md")}


@dataclass(frozen=True)
class ShipConfig:
    """Settings of the command."""

    machine: str
    """Description of the machine that the model was trained on, for the model card."""
    run: Path = Path("runs/tiny-wan")
    """Folder of the training run."""
    out: Path = tiny_folder()
    """Folder of the shipped model; it is replaced."""
    docs: Path = Path("docs")
    """Folder of the page and its pictures."""


def main(config: ShipConfig) -> None:
    """Copy the pipeline, the logs and the contact sheets; write the card, the page and the checksums."""
    evaluation, pipeline = config.run / "evaluation", config.run / "transformer" / "pipeline"
    figures = read_json(evaluation / "figures.json", "run recipes.tiny_wan.evaluate")
    verify_sums(pipeline)
    if config.out.exists():
        shutil.rmtree(config.out)
    shutil.copytree(pipeline, config.out)
    for part in ("vae", "transformer"):
        shutil.copy(config.run / part / "log.jsonl", config.out / f"{part}_log.jsonl")
    words = {**costs(config), **results(figures), "machine": config.machine}
    write_text(config.out / "README.md", TEMPLATES["card"].read_text().format(**words))
    write_sums(config.out)
    captions = (evaluation / "samples.txt").read_text().splitlines()
    words["captions"] = "\n".join(f"{i}. {caption}" for i, caption in enumerate(captions))
    write_text(config.docs / "tiny-wan.md", TEMPLATES["page"].read_text().format(**words))
    for sheet in evaluation.glob("*.png"):
        shutil.copy(sheet, config.docs / f"tiny-wan-{sheet.name}")


def costs(config: ShipConfig) -> dict[str, str]:
    """Sizes of model and data, and the cost of the training, by placeholder of the templates."""
    words = {f"{suite}_clips": str(len(ClipSet(config.run / "worlds", [suite]))) for suite in SUITES}
    for part, steps in (("vae", VAEConfig().steps), ("transformer", TransformerConfig().steps)):
        minutes, loss = minutes_and_loss(config.run / part)
        words |= {f"{part}_steps": str(steps), f"{part}_minutes": f"{minutes:.0f}", f"{part}_loss": f"{loss:.3f}"}
    words["stages"] = "\n".join(map(_stage, TransformerConfig().stages))
    for part in ("transformer", "vae", "text_encoder"):
        (file,) = (config.out / part).glob("*.safetensors")
        with safe_open(file, "pt") as tensors:
            count = sum(int(np.prod(tensors.get_slice(name).get_shape())) for name in tensors.keys())  # noqa: SIM118
        words[f"{part}_millions"] = f"{count / 1e6:.1f}"
    words["megabytes"] = f"{sum(f.stat().st_size for f in config.out.rglob('*.safetensors')) / 1e6:.1f}"
    for name, constants in (("planets", PLANETS), ("materials", MATERIALS), ("substances", SUBSTANCES)):
        words[name] = ", ".join(constants["train"])
    return words


def _stage(stage: Stage) -> str:
    """The table row of a stage."""
    clips = "laws" if stage.laws_alone else "all"
    seen = {0.0: clips, 1.0: "falls"}.get(stage.falls, f"{100 * stage.falls:.0f} % falls, {clips}")
    conditioning = f"{100 * stage.conditioning_prob:.0f} %, up to {stage.max_conditioning_frames}"
    conditioning = conditioning if stage.conditioning_prob else "–"
    return f"| {stage.steps} | {seen} | {conditioning} | {stage.shift:g} | {stage.lr[0]:g} to {stage.lr[1]:g} |"


def results(figures: dict[str, Any]) -> dict[str, str]:
    """The measurements, by placeholder of the templates."""
    decibels, named = figures["reconstruction"], figures["named body"]
    words = {f"psnr_{suite}": _dB(value) for suite, value in decibels.items()}
    words |= {
        "found": _with_bounds(named["found"], "{:.3f}", ""),
        "found_truth": _share(named["on rendered truth"]),
        "found_other": _share(named["in the clip of another caption"]),
        "by_kind": "\n".join(f"| {kind} | {a} of {b} |" for kind, (a, b) in named["by kind"].items()),
        "gravity_unknown": _gravity(named["gravity"]),
        "gravity_known": _gravity(figures["gravity of known planets"]),
    }
    for count in (1, 5):
        row = figures["continuation"][f"{count} known"]
        words[f"kept_{count}"] = _dB(row["given frames"])
        words[f"rest_{count}"] = _dB(row["the rest against the truth"])
        words[f"still_{count}"] = _dB(row["a still of the last given frame"])
    settings = EvaluateConfig()
    names = ("prompts", "known_planets", "continued", "steps", "guidance_scale")
    return words | {name: str(getattr(settings, name)) for name in names}


def minutes_and_loss(folder: Path) -> tuple[float, float]:
    """Minutes of training, resumed runs included, and the mean loss of the last ten rows of the log."""
    rows = read_run_log(folder)
    return rows[-1]["seconds"] / 60, float(np.mean([row["loss"] for row in rows[-10:]]))


def _dB(value: Sequence[float | None]) -> str:
    return _with_bounds(value, "{:.1f}", " dB")


def _share(value: Sequence[float | None]) -> str:
    return _with_bounds(value, "{:.2f}", "")


def _with_bounds(value: Sequence[float | None], form: str, unit: str) -> str:
    middle, low, high = ("–" if x is None else form.format(x) for x in value)
    return f"{middle}{unit} [{low}, {high}]"


def _gravity(row: dict[str, Any]) -> str:
    clips, of = row["clips"]
    off = _with_bounds(row["mean absolute error"], "{:.1f}", " m/s²")
    return f"{_share(row['correlation'])}; off by {off}; {clips} of {of} clips"


if __name__ == "__main__":
    run_command(lambda: main(tyro.cli(ShipConfig)))
