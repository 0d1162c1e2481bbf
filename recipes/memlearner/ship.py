"""Copy a base that was trained on galleries into the package, stored in half precision and measured as it is stored.

    python -m recipes.memlearner.ship --preset gallery --out runs/memlearner-gallery/base \
        --banks runs/memlearner-gallery --machine "2 cores of an Intel Xeon, no accelerator"

OUT is the folder of the trained run. OUT/stored gets the weights and what was measured of them; TO gets the weights,
the training log, the model card and SHA256SUMS. A command that was stopped measures what is missing.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import memkit
from memkit.backbones.model_folder import load_transformer
from memkit.evaluation import to_markdown
from memkit.files.atomic import write_text
from memkit.files.checksums import write_sums
from memkit.training import read_run_log, run_command, steps_done
from recipes.memlearner import evaluate, gallery_scores
from recipes.memlearner.presets import parse

CARD = Path(__file__).with_name("gallery_card.md")

INTRODUCTIONS = {
    "truth": "After a rendered past of three chunks, the fourth is generated:",
    "revisit": "From one frame, all four chunks are generated:",
}


@dataclass(frozen=True)
class Ship(evaluate.Evaluate):
    """The command line."""

    machine: str = "an unnamed machine"
    """Description of the machine that the model was trained on, for the model card."""
    to: Path = Path(memkit.__file__).parent / "weights" / "tiny-gallery"
    """Folder of the shipped model; it is replaced."""


def store(run: Path, to: Path) -> None:
    """Write the transformer of a run in half precision, and the parts of its method."""
    transformer = load_transformer(run / "transformer", None).half()
    transformer.register_to_config(_name_or_path="tiny-gallery")  # instead of the folder of the run
    transformer.save_pretrained(to / "transformer")
    write_sums(to / "transformer")
    shutil.copytree(run / "method", to / "method", dirs_exist_ok=True)


def main(command: Ship) -> int:
    """Store, measure and copy. Returns the exit code."""
    config, stored = command.config, command.config.out / "stored"
    if not (stored / "method").exists():
        store(config.out, stored)
    measures = evaluate.Evaluate(replace(config, out=stored), command.rooms, comparisons=command.comparisons)
    rows = evaluate.evaluate(measures)
    tables = gallery_scores.tables({"the past in the sequence": [rows]})
    log = read_run_log(config.out)
    words = {
        "machine": command.machine,
        "steps": str(steps_done(config.out / "checkpoint.pt")),
        "minutes": f"{log[-1]['seconds'] / 60:.0f}",
        "seed": str(config.seed),
        "galleries": str(2 * command.rooms),
        "results": "\n\n".join(f"{INTRODUCTIONS[title]}\n\n{to_markdown(table)}" for title, table in tables.items()),
    }
    if command.to.exists():
        shutil.rmtree(command.to)
    command.to.mkdir(parents=True)
    for part in ("transformer", "method"):
        shutil.copytree(stored / part, command.to / part)
    shutil.copy(config.out / "log.jsonl", command.to / "log.jsonl")
    shutil.copy(stored / "measured.jsonl", command.to / "measured.jsonl")
    write_text(command.to / "README.md", CARD.read_text(encoding="utf-8").format(**words))
    write_sums(command.to)
    return 0


if __name__ == "__main__":
    run_command(lambda: main(parse(Ship, __doc__)))
