"""The claims of MemLearner, each with one command: it trains the runs that it needs, measures them, prints its table.

    python -m recipes.memlearner.studies.claims --claim methods   # learned queries, rules, packing, nothing
    python -m recipes.memlearner.studies.claims --claim layers    # how many query layers
    python -m recipes.memlearner.studies.claims --claim edges     # without Q→P, with Q→Q
    python -m recipes.memlearner.studies.claims --claim queries   # Q from noise or a copy of P, and its timestep
    python -m recipes.memlearner.studies.claims --claim separate  # a module beside the model, pre-trained or not
    python -m recipes.memlearner.studies.claims --claim window    # DFoT's noise on context frames in training

All runs start from one, OUT/base, which learns cameras and rooms without memory; from there all have the same number
of steps and the same samples. Three training runs, seeds 1 to 3, stand for each variant; intervals are over rooms and
runs. Runs and measurements are shared by the claims; stopped at any point, the same command goes on from there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from diffusers import WanTransformer3DModel

from recipes.common.commands import run_command
from recipes.common.parallel import parallel_map
from recipes.common.tables import write_tables
from recipes.memlearner import evaluate, prepare, train
from recipes.memlearner.comparisons import Run
from recipes.memlearner.presets import Command, Config, parse
from recipes.memlearner.tables import tables

Claim = Literal["methods", "layers", "edges", "queries", "separate", "window"]


@dataclass(frozen=True)
class Claims(Command):
    """The command line."""

    claim: Claim = "methods"
    seeds: tuple[int, ...] = (1, 2, 3)
    """One training run each."""
    rooms: int = evaluate.Evaluate.rooms
    """Test rooms, each without people and with them."""
    base_steps: int = 1500
    """Of the run that all others start from."""
    base_lr: float = 2e-3
    """Of its transformer."""
    jobs: int = 1
    """Runs at once, in processes of one thread each."""


def variants(claim: Claim, blocks: int, layers: int, pretrain_steps: int = 0) -> dict[str, dict[str, Any]]:
    """Settings by name; a name stands for the same run in all claims.

    All have the same steps; of "separate-pretrained" as many more, in which the module learns alone.
    """
    learned: dict[str, Any] = {"method": "learned"}
    none = {"method": "none"}
    if claim == "layers":
        counts = sorted({1, layers, blocks // 2, blocks})
        of = {n: "learned" if n == layers else f"learned-{n}-layers" for n in counts}
        return {of[n]: learned | {"layers": n} for n in counts} | {"none": none}
    if claim == "edges":
        return {
            "learned": learned,
            "learned-without-Q-P": learned | {"query_sees_prediction": False},
            "learned-with-Q-Q": learned | {"query_sees_query": True},
            "none": none,
        }
    if claim == "queries":
        noise, at_0 = {"query": "noise"}, {"query_time": "clean"}
        return {
            "learned": learned,
            "learned-noise": learned | noise,
            "learned-at-0": learned | at_0,
            "learned-noise-at-0": learned | noise | at_0,
            "learned-taught": learned | noise | at_0 | {"query_loss": 1.0},
            "none": none,
        }
    if claim == "separate":
        separate: dict[str, Any] = {"method": "separate"}
        return {
            "learned": learned,
            "separate": separate,
            "separate-pretrained": separate | {"pretrain_steps": pretrain_steps},
            "none": none,
        }
    if claim == "window":
        return {"window": {"method": "window"}, "window-noisy": {"method": "window", "context_noise": "independent"}}
    return {name: {"method": name} for name in ("learned", "cam", "window", "framepack", "separate", "none")}


def base_of(command: Claims) -> Config:
    """The run that all start from."""
    config = command.config
    shared = {"method": "none", "seed": 0, "banks": config.out, "out": config.out / "base"}
    return replace(config, **shared, steps=command.base_steps, lr=command.base_lr)


def run_of(config: Config, name: str, changes: dict[str, Any], seed: int) -> Config:
    """The settings of one training run, below OUT, which has the banks."""
    out, start = config.out / f"{name}-{seed}", config.out / "base"
    return replace(config, **changes, seed=seed, banks=config.out, out=out, start=start)


def measure(command: Claims, config: Config) -> Run:
    """Train what is not trained, measure what is not measured; the rows."""
    train.main(Command(config))
    return evaluate.evaluate(evaluate.Evaluate(config, rooms=command.rooms))


def blocks_of(config: Config) -> int:
    """Of the base run's transformer."""
    return WanTransformer3DModel.load_config(config.out / "base" / "transformer")["num_layers"]  # type: ignore[index]


def main(command: Claims) -> int:
    """Make one claim's tables; the exit code."""
    config = command.config
    prepare.main(prepare.Prepare(config))
    base = base_of(command)
    train.main(Command(base))
    some = variants(command.claim, blocks_of(config), config.layers, config.steps)
    runs = [run_of(config, name, changes, seed) for name, changes in some.items() for seed in command.seeds]
    evaluate.controls(replace(evaluate.Evaluate(base), rooms=command.rooms))
    made = parallel_map(partial(measure, command), runs, command.jobs)
    each = len(command.seeds)
    found = {name: made[i * each : (i + 1) * each] for i, name in enumerate(some)}
    write_tables(Path(config.out) / f"{command.claim}.json", tables(found))
    return 0


if __name__ == "__main__":
    run_command(lambda: main(parse(Claims, __doc__)))
