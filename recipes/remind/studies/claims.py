"""The claims of ReMind, each with one command: it trains the runs that it needs, measures them, prints its table.

    python -m recipes.remind.studies.claims --claim evolution   # the base model, causal training, the curriculum
    python -m recipes.remind.studies.claims --claim parts       # each part of the curriculum removed in turn
    python -m recipes.remind.studies.claims --claim cameras     # PM-RoPE off, phase, full, on look-away
    python -m recipes.remind.studies.claims --claim forgetting  # plain image-to-video before and after

All runs start from the base model and have the same number of steps. Three training runs, seeds 1 to 3, stand for each
variant; intervals are over clips and runs. Runs and measurements are shared by the claims, below OUT; stopped at any
point, the same command goes on from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from recipes.common.commands import run_command
from recipes.common.parallel import parallel_map
from recipes.common.tables import Table, write_tables
from recipes.remind import evaluate, prepare, train
from recipes.remind.presets import Command, Config, parse
from recipes.remind.tables import (
    ATTENTION,
    Run,
    cells,
    plain_less_base,
    plain_table,
    recovery_less_base,
    recovery_less_forgetful,
    recovery_table,
    tables,
)

Claim = Literal["evolution", "parts", "cameras", "forgetting"]
NO_PARTS: dict[str, Any] = {"frontier": False, "node_drop": 0.0, "noisy_memory": 0.0, "reference": 0.0}


@dataclass(frozen=True)
class Claims(Command):
    """The command line."""

    claim: Claim = "evolution"
    seeds: tuple[int, ...] = (1, 2, 3)
    """One training run each."""
    clips: int = evaluate.Evaluate.clips
    """Test clips."""
    jobs: int = 1
    """Runs at once, in processes of one thread each."""


def variants(claim: Claim) -> dict[str, dict[str, Any]]:
    """Settings by name; a name stands for the same run in all claims, and ``remind`` for that of the preset."""
    remind: dict[str, dict[str, Any]] = {"remind": {}}
    if claim == "evolution":
        return remind | {"causal, no curriculum": NO_PARTS}
    if claim == "parts":
        removed = {"frontier": "frontier", "node drop": "node_drop", "noisy memory": "noisy_memory"}
        removed |= {"reference cache": "reference"}
        return remind | {f"without {name}": {field: NO_PARTS[field]} for name, field in removed.items()}
    if claim == "cameras":
        return {"cameras off": {"cameras": "off"}, **remind, "cameras full": {"cameras": "full"}}
    return remind


def run_of(config: Config, name: str, changes: dict[str, Any], seed: int) -> Config:
    """The settings of one training run, below OUT, which has the banks."""
    folder = name.replace(", ", "-").replace(" ", "-")
    return replace(config, **changes, seed=seed, banks=config.out, out=config.out / f"{folder}-{seed}")


def measure(command: Claims, config: Config) -> Run:
    """Train what is not trained, measure what is not measured; the rows."""
    train.main(Command(config))
    return evaluate.evaluate(evaluate.Evaluate(config, clips=command.clips), conditions(command.claim))


def conditions(claim: Claim) -> Sequence[str]:
    """What the tables of a claim read of each run."""
    if claim == "forgetting":
        return evaluate.PLAIN
    return evaluate.OWN if claim == "evolution" else ("recovery",)


def report(claim: Claim, found: Mapping[str, Sequence[Run]]) -> dict[str, Table]:
    """The tables of a claim."""
    if claim == "forgetting":
        return {"plain image-to-video": plain_table(found), "plain, less base": plain_less_base(found)}
    if claim == "cameras":
        looks = {name: cells(runs, "recovery", "look-away", measures=ATTENTION) for name, runs in found.items()}
        out = {"recovery: look-away": recovery_table(found, "look-away"), "attention": looks}
        out["less off"] = _less(found, "cameras off", "look-away")
        # there a gain is of the parameters that a mode adds, not of what they know of cameras
        others = {
            n: [{k: row for k, row in run.items() if row.by != "look-away"} for run in runs]
            for n, runs in found.items()
        }
        out["where the camera stays, less off"] = _less(others, "cameras off", None)
        return out
    if claim == "parts":
        return {"recovery": recovery_table(found), "less remind": _less(found, "remind", None)}
    changed = {"less base": recovery_less_base(found), "plain, less base": plain_less_base(found)}
    changed["less without the past"] = recovery_less_forgetful(found)
    return {**tables(found), **changed, "less no curriculum": _less(found, "causal, no curriculum", None)}


def _less(found: Mapping[str, Sequence[Run]], base: str, by: str | None) -> Table:
    """What each variant has more than ``base``, on the same clips with the same noise and the same seed of training."""
    less = (found[base], "recovery")
    return {name: cells(runs, "recovery", by, less) for name, runs in found.items() if name != base}


def main(command: Claims) -> int:
    """Make one claim's tables; the exit code."""
    config, some = command.config, variants(command.claim)
    prepare.main(prepare.Prepare(config))
    evaluate.controls(evaluate.Evaluate(replace(config, banks=config.out), clips=command.clips))
    runs = [run_of(config, name, changes, seed) for name, changes in some.items() for seed in command.seeds]
    made = parallel_map(partial(measure, command), runs, command.jobs)
    each = len(command.seeds)
    found = {name: made[i * each : (i + 1) * each] for i, name in enumerate(some)}
    write_tables(config.out / f"{command.claim}.json", report(command.claim, found))
    return 0


if __name__ == "__main__":
    run_command(lambda: main(parse(Claims, __doc__)))
