"""Copy a trained run into the package, under the name that commands and `memkit.hub.shipped_folder` find it by.

The run is stored in half precision first, and measured as it is stored. What is shipped is a folder like that of a run:
``transformer/``, the folder of the memory's own weights, the log, the measured rows, and a model card with checksums.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from memkit.backbones.model_folder import load_transformer
from memkit.errors import InputError, nearest
from memkit.files.atomic import write_text
from memkit.files.checksums import write_sums
from memkit.training import read_run_log, report_done, steps_done
from memkit.training.settings import RunSettings


@dataclass(frozen=True)
class Shipment:
    """Flags of a command that ships a run."""

    name: str | None = None
    """Name of the shipped weights, such as tiny-gallery; there is a model card for each in cards/."""
    machine: str = "an unnamed machine"
    """Description of the machine that the model was trained on, for the model card."""
    trained_by: str | None = None
    """Command that trained it, for the model card."""
    to: Path | None = None
    """Folder of the shipped weights, which is replaced; by default memkit/weights/NAME."""


def store(run: Path, name: str, memory: str) -> Path:
    """Store a run in ``run/stored``, unless it is there: the transformer in half precision, and the folder of its
    memory's own weights, ``memory``, as it is. Returns the folder."""
    stored = run / "stored"
    if not (stored / memory).exists():
        transformer = load_transformer(run / "transformer", None).half()
        transformer.register_to_config(_name_or_path=name)  # instead of the folder of the run
        transformer.save_pretrained(stored / "transformer")
        write_sums(stored / "transformer")
        shutil.copytree(run / memory, stored / memory)
    return stored


def card_of(shipment: Shipment, recipe: Path) -> str:
    """The template of the model card, from the folder ``cards`` of a recipe.

    Raises `InputError` where there is none for the name, before anything is stored or measured.
    """
    cards = {file.stem: file for file in sorted((recipe / "cards").glob("*.md"))}
    if shipment.name not in cards:
        names = ", ".join(cards)
        raise InputError(
            f"Give --name, one of {names}; for another, write its model card in {recipe / 'cards'}."
            f"{nearest(shipment.name, cards)}"
        )
    if shipment.trained_by is None:
        raise InputError("Give --trained-by, the command that trained the run; the model card has it.")
    return cards[shipment.name].read_text(encoding="utf-8")


def ship(
    shipment: Shipment, config: RunSettings, stored: Path, memory: str, card: str, words: Mapping[str, object]
) -> None:
    """Copy what `store` wrote, with its measured rows, and write the card; ``words`` are by placeholder."""
    log = read_run_log(config.out)
    facts = {
        "machine": shipment.machine,
        "command": shipment.trained_by,
        "steps": steps_done(config.out / "checkpoint.pt"),
        "minutes": f"{log[-1]['seconds'] / 60:.0f}",
        "seed": config.seed,
    }
    to = shipment.to or Path(str(resources.files("memkit") / "weights" / str(shipment.name)))
    if to.exists():
        shutil.rmtree(to)
    to.mkdir(parents=True)
    for part in ("transformer", memory):
        shutil.copytree(stored / part, to / part)
    shutil.copy(config.out / "log.jsonl", to / "log.jsonl")
    shutil.copy(stored / "measured.jsonl", to / "measured.jsonl")
    write_text(to / "README.md", card.format(**facts, **words))
    write_sums(to)
    report_done(to)
