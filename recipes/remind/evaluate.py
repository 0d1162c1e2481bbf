"""Does the world go on while nobody looks? Clips whose end is made, held against their uninterrupted twins.

    python -m recipes.remind.evaluate --preset tiny

- *recovery*: of a test clip all latent frames are given while nothing of the truth comes back into view, those after
  them are made; scored are the frames whose view is clear again (`recipes.remind.scores`). Beside it stand the same run
  *without the past* (its cache hides what was before the interruption: what prompts and training alone tell it), the
  base model without training, as a stream and as it is (bidirectional, with the given frames known), the twin through
  the autoencoder (the ceiling), and a world that stopped when it was last seen (*frozen*, whose evolution is 0 by
  definition).
- *plain*: image-to-video of undisturbed clips, at the length that the base model was trained for, before and after:
  what was forgotten.

Every clip is measured once: OUT/measured.jsonl; what no run changes lies beside the banks. Intervals are 95 %
bootstraps over clips, for one training run; studies.claims has several. Of your own videos the truth is the
twin through the autoencoder, and there is no state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memkit.backbones import WanBackbone
from memkit.banks import MemoryBank
from memkit.errors import InputError
from memkit.positions import PMRoPE
from recipes.common.backbones import load_whole
from recipes.common.commands import run_command
from recipes.common.results import ResultStore
from recipes.common.tables import write_tables
from recipes.common.training import fingerprint, pick_device
from recipes.remind.data import Clips
from recipes.remind.evaluator import Evaluator, Sizes
from recipes.remind.presets import Command, Config, parse
from recipes.remind.scores import Row
from recipes.remind.tables import CONTROLS, FORGETFUL, PLAIN_CONTROLS, Run, tables
from recipes.remind.train import load_cameras

PLAIN = ("plain", "plain / bidirectional")
OWN = ("recovery", FORGETFUL, *PLAIN)


@dataclass(frozen=True)
class Evaluate(Command):
    """The command line."""

    clips: int = 60
    """Test clips, the first of the bank; in the world each fifth is behind fog, which training never shows."""
    noise_seed: int = 42
    """Of the first clip; they count up. Runs that are compared keep it."""
    at_once: int = 12
    """Clips in a batch."""
    keep: int = 10
    """Videos of each kind to keep in OUT/evaluation, with a contact sheet."""

    def bench(self, clips: Clips, backbone: WanBackbone, positions: PMRoPE | None) -> Evaluator:
        """Of these clips."""
        return Evaluator(
            self.config, clips, Sizes(self.clips, self.noise_seed, self.at_once, self.keep), backbone, positions
        )


def settings_of(command: Evaluate) -> dict[str, object]:
    """What rows depend on besides weights."""
    config = command.config
    names = ("model", "sampling_steps", "guidance_scale", "shift", "cache_frames", "frames", "chunk")
    return {**{name: getattr(config, name) for name in names}, "noise_seed": command.noise_seed}


def open_clips(config: Config) -> Clips:
    """The test bank. Raises `InputError` where there is none."""
    path = config.folder / "test"
    if not (path / "bank.json").exists():
        raise InputError(f"There is no bank {path}; run recipes.remind.prepare first (--into test, of your videos).")
    return Clips(MemoryBank.open(path), config)


def controls(command: Evaluate) -> Run:
    """The rows that no run changes, which lie beside the banks."""
    config, clips = command.config, open_clips(command.config)
    rows = ResultStore(config.folder / "controls.jsonl", settings_of(command) | {"bank": clips.bank.fingerprint}, Row)
    bench = command.bench(clips, load_whole(config.model, config.threads, pick_device(config.device)), None)
    for condition in (*CONTROLS, *PLAIN_CONTROLS):
        bench.measure(condition, rows)
    return dict(rows.rows)


def evaluate(command: Evaluate, conditions: Sequence[str] = OWN) -> Run:
    """The rows of a run in these conditions, with those that no run changes."""
    config, clips = command.config, open_clips(command.config)
    backbone = load_whole(config.model, config.threads, pick_device(config.device), config.out)
    positions = load_cameras(config, backbone, config.out).eval()
    made = {"weights": fingerprint(backbone.transformer, positions), "bank": clips.bank.fingerprint}
    rows = ResultStore(config.out / "measured.jsonl", settings_of(command) | made, Row)
    bench = command.bench(clips, backbone, positions)
    for condition in conditions:
        bench.measure(condition, rows)
    return {**controls(command), **rows.rows}


def main(command: Evaluate) -> int:
    """Evaluate; the exit code."""
    run = evaluate(command)
    write_tables(command.config.out / "evaluation.json", tables({"remind": [run]}))
    return 0


if __name__ == "__main__":
    run_command(lambda: main(parse(Evaluate, __doc__)))
