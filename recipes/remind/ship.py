"""Copy a trained run into the package, stored in half precision and measured as it is stored.

    python -m recipes.remind.ship --preset tiny --out runs/remind-tiny --name remind-tiny \
        --machine "2 cores of an Intel Xeon, no accelerator" --trained-by "python -m recipes.remind.train --preset tiny"

OUT is the folder of the trained run; the settings are those that it was trained with. OUT/stored gets the weights and
what was measured of them; memkit/weights/NAME gets the weights, the training log, the model card and SHA256SUMS. A
command that was stopped measures what is missing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from memkit.evaluation import to_markdown
from memkit.training import run_command
from recipes.remind import evaluate
from recipes.remind.presets import parse
from recipes.remind.scores import tables
from recipes.shipping import Shipment, card_of, ship, store

SHOWN = ("recovery", "plain image-to-video")


@dataclass(frozen=True)
class Ship(Shipment, evaluate.Evaluate):
    """The command line."""


def main(command: Ship) -> int:
    """Store, measure and copy. Returns the exit code."""
    config, card = command.config, card_of(command, Path(__file__).parent)
    stored = store(config.out, str(command.name), "cameras")
    measures = replace(command, config=replace(config, out=stored, banks=config.folder), weights=None)
    measured = tables({str(command.name): [evaluate.evaluate(measures)]})
    results = "\n\n".join(f"*{title}*\n\n{to_markdown(measured[title])}" for title in SHOWN)
    clips = len(evaluate.open_clips(config).records)
    words = {"clips": min(command.clips, clips), "train_clips": config.train_clips, "results": results}
    ship(command, config, stored, "cameras", card, words)
    return 0


if __name__ == "__main__":
    run_command(lambda: main(parse(Ship, __doc__)))
