"""Does a place look as it did? Chunks after a real past, and rollouts that turn away and come back, in unseen rooms.

    python -m recipes.memlearner.evaluate --preset tiny --method learned

Two comparisons (MemLearner, Evaluation), in rooms without people and in the same rooms with them:

- *truth*: the past is real, one chunk is made, and held against the real one. Of its frames, those whose pose was in
  the past, with the camera away since, also have a column of their own.
- *revisit*: from one real frame the camera turns by 90° to 180°, waits and turns back, chunk after chunk; frames of the
  way back are held against those of the way there, as made, and against the truth.

Where queries fetch the past, the share of their attention on it is measured along.
PSNR is of the mean squared error over a clip's frames. Beside every method stands the autoencoder (the ceiling) and a
still of the last frame (the floor). Every clip is measured once: OUT/measured.jsonl; what no method changes lies beside
the banks. Intervals are 95 % bootstraps over rooms, for one training run; studies.claims has several.
"""

from __future__ import annotations

from dataclasses import dataclass

from memkit.backbones import WanBackbone
from memkit.errors import InputError
from recipes.common.commands import run_command
from recipes.common.results import ResultStore
from recipes.common.tables import write_tables
from recipes.common.training import fingerprint, pick_device
from recipes.memlearner.comparisons import COMPARISONS, Row, Run, test_rooms
from recipes.memlearner.evaluator import Evaluator, Sizes
from recipes.memlearner.methods import load_method
from recipes.memlearner.presets import Command, parse
from recipes.memlearner.tables import tables
from recipes.memlearner.train import load_backbone


@dataclass(frozen=True)
class Evaluate(Command):
    """The command line."""

    rooms: int = 32
    """Test rooms, each without people and with them."""
    noise_seed: int = 42
    """Of the first room; they count up. Runs that are compared keep it."""
    at_once: int = 16
    """Rooms in a batch."""
    keep: int = 8
    """Videos of each kind to keep in OUT/evaluation."""

    def bench(self, backbone: WanBackbone) -> Evaluator:
        """Of these rooms."""
        return Evaluator(self.config, test_rooms(self.rooms), Sizes(self.noise_seed, self.at_once, self.keep), backbone)


def controls(command: Evaluate, backbone: WanBackbone | None = None) -> Run:
    """The rows that no method changes, which lie beside the banks; training leaves the autoencoder as it is."""
    config = command.config
    backbone = backbone or load_backbone(config, pick_device(config.device))
    made = {"model": config.model, "video_chunks": config.video_chunks}
    rows = ResultStore(config.folder / "controls.jsonl", made, Row)
    bench = command.bench(backbone)
    for comparison in COMPARISONS:
        bench.controls(comparison, rows)
    return dict(rows.rows)


def evaluate(command: Evaluate) -> Run:
    """All rows of a run, with those that no method changes."""
    config = command.config
    made = {name: getattr(config, name) for name in ("model", "sampling_steps", "guidance_scale", "history_guidance")}
    made |= {"noise_seed": command.noise_seed, "video_chunks": config.video_chunks, "budget": config.budget}
    backbone = load_backbone(config, pick_device(config.device), config.out)
    method = load_method(config, backbone, config.out / "method").eval()
    weights = fingerprint(backbone.transformer, method)
    rows = ResultStore(config.out / "measured.jsonl", {**made, "weights": weights}, Row)
    bench = command.bench(backbone)
    for comparison in COMPARISONS:
        bench.run(comparison, method, rows)
    return {**controls(command, backbone), **rows.rows}


def main(command: Evaluate) -> int:
    """Evaluate; the exit code."""
    config = command.config
    if config.model != "tiny" and not (config.folder / "test" / "bank.json").exists():
        raise InputError("The comparisons are made in rendered rooms, for a model of their size.")
    run = evaluate(command)
    write_tables(config.out / "evaluation.json", tables({config.method: [run]}))
    print(config.out)
    return 0


if __name__ == "__main__":
    run_command(lambda: main(parse(Evaluate, __doc__)))
