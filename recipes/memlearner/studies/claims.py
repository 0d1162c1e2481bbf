"""Test a claim of MemLearner: train the runs that it needs, measure them, and print its tables.

    python -m recipes.memlearner.studies.claims --claim methods   # learned queries, rules, packing, no memory
    python -m recipes.memlearner.studies.claims --claim layers    # the number of query layers
    python -m recipes.memlearner.studies.claims --claim edges     # without Q→P, with Q→Q
    python -m recipes.memlearner.studies.claims --claim queries   # Q from noise or a copy of P; its timestep
    python -m recipes.memlearner.studies.claims --claim separate  # a separate query module, pre-trained or not
    python -m recipes.memlearner.studies.claims --claim window    # noise on context frames in training (DFoT)

All runs start from OUT/base, which was trained without memory (with ``--suite gallery`` with the past in the sequence,
so that it can retrieve), and have the same number of steps and the same samples.
Intervals are over rooms and training runs. Claims share runs and measurements; a command that was stopped continues
where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from diffusers import WanTransformer3DModel

from memkit.evaluation import Study, StudyFlags
from memkit.training import run_command
from recipes.memlearner import evaluate, prepare, train
from recipes.memlearner.presets import Command, Config, parse
from recipes.memlearner.scores import COMPARISONS, Comparison, Run

Claim = Literal["methods", "layers", "edges", "queries", "separate", "window"]


@dataclass(frozen=True)
class Claims(StudyFlags, Command):
    """The command line."""

    claim: Claim = "methods"
    """The claim to test."""
    rooms: int = evaluate.Evaluate.rooms
    """Number of test rooms, each without people and with people."""
    base_steps: int = 1500
    """Number of steps of the run that all others start from."""
    base_lr: float = 2e-3
    """Learning rate of the transformer in that run."""


def variants(claim: Claim, blocks: int, layers: int, pretrain_steps: int = 0) -> dict[str, dict[str, Any]]:
    """Settings by name. A name stands for the same run in all claims.

    All runs have the same number of steps. "separate-pretrained" first has equally many for the query module alone.
    """
    learned, separate, none = ({"method": name} for name in ("learned", "separate", "none"))
    noise, clean = {"query": "noise"}, {"query_time": "clean"}
    match claim:
        case "methods":
            return {name: {"method": name} for name in ("learned", "cam", "window", "framepack", "separate", "none")}
        case "layers":
            counts = sorted({1, layers, blocks // 2, blocks})
            names = {n: "learned" if n == layers else f"learned-{n}-layers" for n in counts}
            some = {names[n]: learned | {"layers": n} for n in counts}
        case "edges":
            some = {
                "learned": learned,
                "learned-without-Q-P": learned | {"query_sees_prediction": False},
                "learned-with-Q-Q": learned | {"query_sees_query": True},
            }
        case "queries":
            some = {
                "learned": learned,
                "learned-noise": learned | noise,
                "learned-at-0": learned | clean,
                "learned-noise-at-0": learned | noise | clean,
                "learned-taught": learned | noise | clean | {"query_loss": 1.0},
            }
        case "separate":
            pretrained = separate | {"pretrain_steps": pretrain_steps}
            some = {"learned": learned, "separate": separate, "separate-pretrained": pretrained}
        case "window":
            window = {"method": "window"}
            return {"window": window, "window-noisy": window | {"context_noise": "independent"}}
    return some | {"none": none}


def base_config(command: Claims) -> Config:
    """The settings of the run that all others start from."""
    config = command.config
    method = "none" if config.suite == "rooms" else "window"
    shared = {"method": method, "seed": 0, "banks": config.out, "out": config.out / "base"}
    return replace(config, **shared, steps=command.base_steps, lr=command.base_lr)


def measure(config: Config, conditions: Sequence[Comparison], rooms: int) -> Run:
    """Train and measure what is missing of one run."""
    train.main(Command(config))
    return evaluate.evaluate(evaluate.Evaluate(config, rooms=rooms), conditions)


def study(command: Claims) -> Study[Config, Run]:
    """The study of a claim; the base run has been trained."""
    config, start = command.config, command.config.out / "base"
    blocks: int = WanTransformer3DModel.load_config(start / "transformer")["num_layers"]  # type: ignore[index]
    some = variants(command.claim, blocks, config.layers, config.steps)
    show = evaluate.TABLES[config.suite]
    return Study(replace(config, start=start), some, partial(measure, rooms=command.rooms), show, COMPARISONS)


def main(command: Claims) -> int:
    """Print and write the tables of one claim. Returns the exit code."""
    prepare.main(prepare.Prepare(command.config))
    base = base_config(command)
    train.main(Command(base))
    evaluate.controls(evaluate.Evaluate(base, rooms=command.rooms))
    shows = "python -m recipes.memlearner.studies.report" if command.claim == "methods" else None
    return study(command).run(command.claim, command, next_command=shows)


if __name__ == "__main__":
    run_command(lambda: main(parse(Claims, __doc__)))
