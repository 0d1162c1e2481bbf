"""The page that helps to choose a memory: what each needs, holds and costs, and how it does on the probes.

    python -m recipes.leaderboard.memories --rounds 20     # times anew
    python -m recipes.leaderboard.memories --rounds 0      # writes docs/memories.md from what was measured

Bytes are those of a minute of video at 480p in Wan2.1 T2V 1.3B, computed from its sizes by the parts themselves. Times
are those of a chunk of the `occlusion` probe with an untrained mechanism, as multiples of the time of a step without
memory: the mechanisms take turns, so that other load affects all of them.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from memkit.display import size_of
from memkit.files.atomic import write_text
from memkit.files.json_files import read_json, write_json
from memkit.metrics import bootstrap
from memkit.probes import PROBES, ProbeResult, ProbeSettings, make_probe, read_results
from memkit.training import run_command
from recipes.leaderboard.cells import Cell, mechanism_of
from recipes.leaderboard.choices import CHOICES, LATENT_FRAMES, Choice

INTRODUCTION = """# Choosing a memory

Which of memkit's memories fits a task: what each needs, what has to be trained, what it holds, what it costs, and how
it does on the [memory probes](probes.md). `python -m recipes.leaderboard.memories` writes this page.

## By need, bytes and speed

- **Clips show what should happen, and the model stays frozen**: memory tokens of `FrequencyEncoder`.
- **A place comes back**: frames in the sequence while the past is short; learned queries, routing or a rule of views
  once it is long. A rule of views needs cameras and no training, and does not know what walls hide unless it has depth.
- **A video of any length in constant memory**: `KVCache` with a budget, or `StateSpaceMemory`.
- **What goes on out of sight**: a causal model with `KVCache`, trained with `TeacherForcing`.
- **By bytes**: memory tokens are smallest, and constant as a window and a recurrent state are; then come the latents of
  past frames. Keys and values of all past frames take about a thousand times as much as their latents.
- **By speed**: a cache and learned queries add least to each step, routed attention adds most.

## All memories

- **Held** is what is kept of one minute of video at 480p (832×480 at 16 frames per second: {frames} latent frames of
  60×104 cells) by Wan2.1 T2V 1.3B in bf16, for one video and one branch of guidance. What is *constant* does not grow
  with the video.
- **Time** is a multiple of the time of a denoising step without memory, and its 95 % interval over {rounds} rounds. A
  chunk costs the time of *each step*, times the number of steps, and *once* what it takes to prepare the whole past
  (what a stream has already done when its next chunk begins). It is measured with the models of 0.5 M parameters of
  the probes, on one thread of a CPU, with a past of {past} latent frames: it ranks the memories, but says little
  about a GPU.
- **Accuracy** is the mean over the seeds of the [leaderboard](leaderboard.md), which has intervals, controls and the
  state of the measurement; – was not measured yet.
"""


@dataclass(frozen=True)
class Command:
    """The command line."""

    rounds: int = 20
    """Number of times that each mechanism is timed; with 0, the page is written from the times of the file."""
    out: Path = Path("docs")
    """Folder of leaderboard.json, of memories.json with the times, and of the page."""


def main(command: Command) -> None:
    """Measure, and write the page."""
    file = command.out / "memories.json"
    if command.rounds:
        write_json(file, times(command.rounds))
    page = command.out / "memories.md"
    rows = command.out / "leaderboard.json"
    write_text(page, page_text(read_json(file, "Run the command with --rounds 20."), read_results(rows)))
    print(f"The page is {page}.")


def times(rounds: int) -> dict[str, Any]:
    """Milliseconds of each round by mechanism: ``once``, to prepare the past, and ``step``, of a denoising step."""
    torch.set_num_threads(1)
    probe, settings = make_probe("occlusion", depth=True), ProbeSettings()
    names = ["none", *dict.fromkeys(choice.mechanism for choice in CHOICES if choice.mechanism)]
    batch = next(probe.batches("test", 0, 1))
    noise, sigma = torch.randn(batch.target.shape, generator=torch.Generator().manual_seed(0)), torch.ones(1)
    made = {}
    for name in names:
        transformer = settings.model(0)
        made[name] = transformer, mechanism_of(name)(transformer, probe).eval()
    found: dict[str, dict[str, list[float]]] = {name: {"once": [], "step": []} for name in names}
    for i in range(rounds + 1):
        for name, (transformer, mechanism) in made.items():
            clock = [time.perf_counter()]
            with torch.no_grad(), mechanism.shown(transformer, batch.concealed()):
                for _ in range(2):
                    mechanism.velocity(transformer, batch, noise, sigma, nullcontext())
                    clock.append(time.perf_counter())
            first, second = (1000 * (after - before) for before, after in itertools.pairwise(clock))
            if i:  # the first round warms up
                found[name]["once"].append(round(first - second, 3))
                found[name]["step"].append(round(second, 3))
    return {"past": len(batch.memory_times), "milliseconds": found}


def page_text(measured: dict[str, Any], rows: Sequence[ProbeResult]) -> str:
    """The page in Markdown."""
    milliseconds = measured["milliseconds"]
    rounds = len(milliseconds["none"]["step"])
    head = ["memory", "use it when", "trained", "held per minute", "each step", "once", *PROBES]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for choice in CHOICES:
        accuracies = [_accuracy(choice, probe, rows) for probe in PROBES]
        cells = [
            choice.name,
            choice.use,
            choice.training,
            size_of(choice.held()) + (", constant" if choice.constant else ""),
            _ratio(milliseconds, choice.mechanism, "step"),
            _ratio(milliseconds, choice.mechanism, "once"),
            *accuracies,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    introduction = INTRODUCTION.format(frames=LATENT_FRAMES, rounds=rounds, past=measured["past"])
    chances = ", ".join(f"{name} {make_probe(name).chance:.3g}" for name in PROBES)
    return f"{introduction}\n" + "\n".join(lines) + f"\n\nChance: {chances}.\n\n" + NOTES.strip() + "\n"


NOTES = """
Memories can be combined; [composition.md](composition.md) says which.
"""


def _accuracy(choice: Choice, probe: str, rows: Sequence[ProbeResult]) -> str:
    if choice.mechanism is None or (choice.depth and probe != "occlusion"):
        return "–"
    found = Cell(probe, choice.mechanism, {"depth": True} if choice.depth else {}).rows(rows)
    return f"{np.mean([row.accuracy for row in found]):.2f}" if found else "–"


def _ratio(milliseconds: dict[str, dict[str, list[float]]], mechanism: str | None, part: str) -> str:
    if mechanism is None:
        return "–"
    of = [np.array(milliseconds[mechanism][part]), np.array(milliseconds["none"]["step"])]
    found = bootstrap(lambda a, b: float(np.median(a) / np.median(b)), *of)
    return f"{found.value:.1f} [{found.low:.1f}, {found.high:.1f}]"


if __name__ == "__main__":
    run_command(lambda: main(tyro.cli(Command, description=__doc__)))
