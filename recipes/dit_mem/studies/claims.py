"""Test a claim of DiT-Mem: train the encoders that it needs, measure them, and print its tables.

    python -m recipes.dit_mem.studies.claims --claim knowledge     # none, retrieved, other, random, oracle
    python -m recipes.dit_mem.studies.claims --claim plug          # k = 1, 3, 5, 10; partly wrong retrieval
    python -m recipes.dit_mem.studies.claims --claim guidance      # memory in the conditional branch, or a third term
    python -m recipes.dit_mem.studies.claims --claim mixture       # low tokens of one planet, high tokens of another
    python -m recipes.dit_mem.studies.claims --claim encoders      # ours, that of the release, and controls
    python -m recipes.dit_mem.studies.claims --claim branches      # low tokens of one clip, high tokens of another
    python -m recipes.dit_mem.studies.claims --claim appearance    # the same for encoders trained on the clip itself

Intervals are over prompts and training runs. Claims share runs and measurements, below OUT; a command that was stopped
continues where it was. The tables are written to OUT/CLAIM.json or CLAIM-from-frame.json, with the name of the encoder
if it is not "frequency".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

from memkit.encoders import EncoderName
from memkit.evaluation import Study, StudyFlags, Table, differences, intervals
from memkit.training import run_command
from recipes.dit_mem import evaluate, prepare, train
from recipes.dit_mem.presets import Command, Config, parse
from recipes.dit_mem.scores import OVERALL, UNITS, Run, constant_table, constants_in, digits, errors, tables
from recipes.dit_mem.studies import branches

Claim = Literal["knowledge", "plug", "guidance", "mixture", "encoders", "branches", "appearance"]
OF_ONE_ENCODER = ("knowledge", "plug", "guidance", "mixture")
BY_BRANCH = ("branches", "appearance")
ITSELF: dict[str, Any] = {"pool": 0, "image_cond_prob": 0.0, "drop_text": 1.0, "shift": 3.0}
"""The memory is the target itself, without text and conditioning frame, so that it must carry the appearance too."""


@dataclass(frozen=True)
class Claims(StudyFlags, Command):
    """The command line."""

    claim: Claim = "knowledge"
    """The claim to test."""
    encoders: tuple[EncoderName | str, ...] = ()
    """Encoders to compare in "encoders", "branches" and "appearance"; by default all. Other claims use --encoder."""
    clips: int = evaluate.Evaluate.clips
    """Number of prompts; for "branches" and "appearance" see --pairs."""
    pairs: int = branches.Branches.pairs
    """Number of pairs in "branches" and "appearance"."""
    from_frame: bool = False
    """Condition every prompt on the first frame of its clip; not for "branches" and "appearance"."""

    def evaluation(self, config: Config) -> evaluate.Evaluate:
        """The evaluation of a run."""
        study: Any = self.claim if self.claim not in BY_BRANCH else "knowledge"
        return evaluate.Evaluate(config, study=study, clips=self.clips, from_frame=self.from_frame)


def variants(claim: Claim, encoders: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Settings by name. All claims except "appearance" share the runs of an encoder."""
    if claim == "appearance":
        return {f"own-{encoder}": {"encoder": encoder, **ITSELF} for encoder in encoders}
    return {encoder: {"encoder": encoder} for encoder in encoders}


def measure(config: Config, conditions: Sequence[str], command: Claims) -> Any:
    """Train and measure what is missing of one run. Returns its rows, and for most claims the names of conditions."""
    train.main(Command(config))
    if command.claim in BY_BRANCH:
        return branches.compare(branches.Branches(config, pairs=command.pairs))
    return evaluate.evaluate(command.evaluation(config))


def tables_of(results: Mapping[str, list[Any]], claim: Claim) -> Mapping[str, Table]:
    """The tables of a claim, from the results of `measure`."""
    if claim in BY_BRANCH:
        return {name.removeprefix("own-"): branches.table(runs) for name, runs in results.items()}
    runs = {name: [run for run, _ in some] for name, some in results.items()}
    if claim == "encoders":
        return compare_encoders(runs)
    ((_, names),) = (some[0] for some in results.values())
    (mine,) = runs.values()
    out = tables(mine, names)
    if claim == "guidance":
        pairs = {name: kind for name in names for kind, _, way in [name.partition(", ")] if way}
        measures = errors(mine)
        out["less both branches"] = {name: intervals(measures, mine, name, (mine, of)) for name, of in pairs.items()}
    return out


def compare_encoders(runs: Mapping[str, list[Run]]) -> dict[str, Table]:
    """Per encoder, over all clips and by constant: errors minus those without memory, and correlations."""
    out: dict[str, Table] = {"": {}}
    for encoder, mine in runs.items():
        retrieved, other, oracle = (intervals(OVERALL, mine, name) for name in ("retrieved", "other", "oracle"))
        out[""][encoder] = {
            "found, retrieved": retrieved["found"],
            "path error, %: retrieved less none": retrieved["less none"],
            "other less none": other["less none"],
            "oracle less none": oracle["less none"],
            "law residual, %: retrieved less none": retrieved["less none's"],
        }
        for name in constants_in(next(iter(runs.values()))):
            found = constant_table(mine, ["retrieved", "other"], name)
            out.setdefault(name, {})[encoder] = {
                "error, retrieved less none": found["retrieved"]["less none"],
                "other less none": found["other"]["less none"],
                "correlation with truth, retrieved": found["retrieved"]["correlation with truth"],
                "with the clips shown, other": found["other"]["with the clips shown"],
            }
    first, *more = runs
    if more:
        out[f"retrieved, less {first}"] = differences(errors(runs[first]), runs, "retrieved", first)
    return out


def study(command: Claims) -> Study[Config, Any]:
    """The study of a claim."""
    encoders = command.encoders or get_args(EncoderName)
    if command.claim in OF_ONE_ENCODER:
        encoders = (command.config.encoder,)
    runs = variants(command.claim, encoders)
    return Study(command.config, runs, partial(measure, command=command), partial(tables_of, claim=command.claim))


def main(command: Claims) -> int:
    """Print and write the tables of one claim. Returns the exit code."""
    config, name = command.config, command.claim
    prepare.main(prepare.Prepare(config))
    if name not in BY_BRANCH:
        evaluate.open_evaluator(command.evaluation(replace(config, banks=config.out))).measure_without_memory()
    suffix = f"-{config.encoder}" if name in OF_ONE_ENCODER and config.encoder != "frequency" else ""
    suffix += "-from-frame" if command.from_frame else ""
    return study(command).run(name + suffix, command, units=UNITS, digits=digits)


if __name__ == "__main__":
    run_command(lambda: main(parse(Claims, __doc__)))
