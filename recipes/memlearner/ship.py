"""Copy a trained run into the package, stored in half precision and measured as it is stored.

    python -m recipes.memlearner.ship --preset gallery --out runs/memlearner-gallery/base \
        --banks runs/memlearner-gallery --name tiny-gallery --machine "2 cores of an Intel Xeon, no accelerator" \
        --trained-by "python -m recipes.memlearner.train --preset gallery"

OUT is the folder of the trained run, of any method; the settings are those that it was trained with. OUT/stored gets
the weights and what was measured of them; memkit/weights/NAME gets the weights, the training log, the model card and
SHA256SUMS. A command that was stopped measures what is missing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from memkit.evaluation import to_markdown
from memkit.training import run_command
from recipes.memlearner import evaluate
from recipes.memlearner.presets import parse
from recipes.shipping import Shipment, card_of, ship, store

INTRODUCTIONS = {
    "truth": "After a rendered past of three chunks, the fourth is generated:",
    "revisit": "From one frame, all four chunks are generated:",
}
NAMES = {"window": "the past in the sequence", "learned": "learned queries"}


@dataclass(frozen=True)
class Ship(Shipment, evaluate.Evaluate):
    """The command line."""


def main(command: Ship) -> int:
    """Store, measure and copy. Returns the exit code."""
    config, card = command.config, card_of(command, Path(__file__).parent)
    stored = store(config.out, str(command.name), "method")
    measures = replace(command, config=replace(config, out=stored, banks=config.folder), weights=None)
    rows = evaluate.evaluate(measures)
    tables = evaluate.TABLES[config.suite]({NAMES.get(config.method, config.method): [rows]})
    results = "\n\n".join(f"{INTRODUCTIONS[title]}\n\n{to_markdown(table)}" for title, table in tables.items())
    ship(command, config, stored, "method", card, {"galleries": 2 * command.rooms, "results": results})
    return 0


if __name__ == "__main__":
    run_command(lambda: main(parse(Ship, __doc__)))
