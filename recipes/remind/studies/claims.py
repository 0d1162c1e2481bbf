"""Test a claim of ReMind: train the runs that it needs, measure them, and print its tables.

    python -m recipes.remind.studies.claims --claim evolution   # the base model, causal training, the curriculum
    python -m recipes.remind.studies.claims --claim parts       # each part of the curriculum removed in turn
    python -m recipes.remind.studies.claims --claim cameras     # PM-RoPE off, phase, full, on look-away
    python -m recipes.remind.studies.claims --claim forgetting  # plain image-to-video before and after training

All runs start from the base model and have the same number of steps. Intervals are over clips and training runs. Claims
share runs and measurements, below OUT; a command that was stopped continues where it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from memkit.evaluation import Study, StudyFlags, Table, compare, differences, select
from memkit.training import run_command
from recipes.remind import evaluate, prepare, scores, train
from recipes.remind.presets import Command, Config, parse
from recipes.remind.scores import FORGETFUL, MEASURES, Run

Claim = Literal["evolution", "parts", "cameras", "forgetting"]
NO_PARTS: dict[str, Any] = {"frontier": False, "node_drop": 0.0, "noisy_memory": 0.0, "reference": 0.0}


@dataclass(frozen=True)
class Claims(StudyFlags, Command):
    """The command line."""

    claim: Claim = "evolution"
    """The claim to test."""
    clips: int = evaluate.Evaluate.clips
    """Number of test clips."""


def variants(claim: Claim) -> dict[str, dict[str, Any]]:
    """Settings by name. A name stands for the same run in all claims, and ``remind`` for that of the preset."""
    remind: dict[str, dict[str, Any]] = {"remind": {}}
    match claim:
        case "evolution":
            return remind | {"causal, no curriculum": NO_PARTS}
        case "parts":
            names = {"frontier": "frontier", "node drop": "node_drop", "noisy memory": "noisy_memory"}
            names |= {"reference cache": "reference"}
            return remind | {f"without {name}": {field: NO_PARTS[field]} for name, field in names.items()}
        case "cameras":
            return {"cameras off": {"cameras": "off"}, **remind, "cameras full": {"cameras": "full"}}
        case "forgetting":
            return remind


def conditions(claim: Claim) -> Sequence[str]:
    """The conditions that the tables of a claim need."""
    return {"evolution": scores.OWN, "forgetting": scores.PLAIN}.get(claim, ("recovery",))


def tables(runs: Mapping[str, Sequence[Run]], claim: Claim) -> dict[str, Table]:
    """The tables of a claim."""
    match claim:
        case "evolution":
            base = next(iter(runs.values()))[:1], "recovery / base"
            return scores.tables(runs) | {
                "less base": compare(MEASURES, runs, "recovery", base),
                "plain, less base": scores.plain_minus_base(runs),
                "less without the past": compare(MEASURES, runs, "recovery", FORGETFUL),
                "less no curriculum": differences(MEASURES, runs, "recovery", "causal, no curriculum"),
            }
        case "parts":
            less = differences(MEASURES, runs, "recovery", "remind")
            return {"recovery": scores.recovery_table(runs), "less remind": less}
        case "cameras":
            looks = select(runs, lambda row: row.by == "look-away")
            # where the camera does not move, a gain comes from the added parameters, not from the camera poses
            others = select(runs, lambda row: row.by != "look-away")
            return {
                "recovery: look-away": scores.recovery_table(looks),
                "attention": compare(scores.ATTENTION, looks, "recovery"),
                "less off": differences(MEASURES, looks, "recovery", "cameras off"),
                "where the camera stays, less off": differences(MEASURES, others, "recovery", "cameras off"),
            }
        case "forgetting":
            plain = {"plain image-to-video": scores.plain_table(runs)}
            return plain | {"plain, less base": scores.plain_minus_base(runs)}


def measure(config: Config, conditions: Sequence[str], clips: int) -> Run:
    """Train and measure what is missing of one run."""
    train.main(Command(config))
    return evaluate.evaluate(evaluate.Evaluate(config, clips=clips), conditions)


def study(command: Claims) -> Study[Config, Run]:
    """The study of a claim."""
    claim, measure_clips = command.claim, partial(measure, clips=command.clips)
    return Study(command.config, variants(claim), measure_clips, partial(tables, claim=claim), conditions(claim))


def main(command: Claims) -> int:
    """Print and write the tables of one claim. Returns the exit code."""
    config = command.config
    prepare.main(prepare.Prepare(config))
    evaluate.controls(evaluate.Evaluate(replace(config, banks=config.out), clips=command.clips))
    shows = "python -m recipes.remind.studies.sheet" if command.claim == "evolution" else None
    return study(command).run(command.claim, command, next_command=shows)


if __name__ == "__main__":
    run_command(lambda: main(parse(Claims, __doc__)))
