"""The claims of DiT-Mem, each with one command: it trains the encoders that it needs, measures them, prints its table.

    python -m recipes.dit_mem.studies.claims --claim knowledge     # none, retrieved, other, random, oracle
    python -m recipes.dit_mem.studies.claims --claim plug          # k = 1, 3, 5, 10; retrieval that is partly wrong
    python -m recipes.dit_mem.studies.claims --claim guidance      # memory for the conditional branch, or a third term
    python -m recipes.dit_mem.studies.claims --claim mixture       # low tokens of one planet, high tokens of another
    python -m recipes.dit_mem.studies.claims --claim encoders      # ours, the release's, and the controls, side by side
    python -m recipes.dit_mem.studies.claims --claim branches      # low tokens of one clip, high tokens of another
    python -m recipes.dit_mem.studies.claims --claim appearance   # the same, of encoders trained on the clip itself

Three training runs, seeds 1 to 3, stand for each encoder; intervals are over prompts and runs. Runs and measurements
are shared by the claims, below OUT; stopped at any point, the same command goes on from there. The tables are in OUT
too, as JSON: CLAIM.json, CLAIM-from-frame.json, with the encoder in the name where it is not "frequency".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

from memkit.encoders import EncoderName
from recipes.common.commands import run_command
from recipes.common.parallel import parallel_map
from recipes.common.tables import Table
from recipes.dit_mem import evaluate, prepare, train
from recipes.dit_mem.presets import Command, Config, parse
from recipes.dit_mem.studies import branches
from recipes.dit_mem.tables import Run, compared, constants_in, less_errors, of_constant, overall, report, write

Claim = Literal["knowledge", "plug", "guidance", "mixture", "encoders", "branches", "appearance"]
BY_BRANCH = ("branches", "appearance")
OWN: dict[str, Any] = {"pool": 0, "image_share": 0.0, "drop_text": 1.0, "shift": 3.0}
"""Memory is the target itself, without a text or a first frame: it must carry the looks as well as the law."""


@dataclass(frozen=True)
class Claims(Command):
    """The command line."""

    claim: Claim = "knowledge"
    encoders: tuple[EncoderName, ...] = ()
    """Of "encoders", "branches" and "appearance", instead of all; the other claims are about --encoder."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """One training run each."""
    clips: int = evaluate.Evaluate.clips
    """Prompts."""
    from_frame: bool = False
    """Give every prompt the first frame of its clip; not for "branches" and "appearance"."""
    jobs: int = 1
    """Runs at once, in processes of one thread each."""


def run_of(config: Config, encoder: EncoderName, seed: int, claim: Claim = "knowledge") -> Config:
    """The settings of one training run, below OUT, which has the banks; all claims but "appearance" share it."""
    own, kind = (OWN, "own-") if claim == "appearance" else ({}, "")
    out = config.out / f"{kind}{encoder}-{seed}"
    return replace(config, encoder=encoder, seed=seed, banks=config.out, out=out, **own)


def measure(command: Claims, config: Config) -> Any:
    """Train what is not trained, measure what is not measured; rows of the one run."""
    train.main(Command(config))
    if command.claim in BY_BRANCH:
        return branches.compare(branches.Branches(config))
    return evaluate.evaluate(replace(_evaluation(command, config), study=command.claim))


def _evaluation(command: Claims, config: Config) -> evaluate.Evaluate:
    return evaluate.Evaluate(config, clips=command.clips, from_frame=command.from_frame)


def measure_all(command: Claims, encoders: Sequence[EncoderName]) -> dict[EncoderName, list[Any]]:
    """What ``measure`` gives, by encoder, for each seed."""
    config = command.config
    prepare.main(prepare.Prepare(config))
    if command.claim not in BY_BRANCH:
        evaluate.open_bench(_evaluation(command, replace(config, banks=config.out))).without_memory()
    runs = [run_of(config, encoder, seed, command.claim) for encoder in encoders for seed in command.seeds]
    made = parallel_map(partial(measure, command), runs, command.jobs)
    each = len(command.seeds)
    return {encoder: made[i * each : (i + 1) * each] for i, encoder in enumerate(encoders)}


def compare_encoders(runs: dict[EncoderName, list[Run]]) -> dict[str, Table]:
    """By constant, what memory does with each encoder: errors less those without memory, and who is followed."""
    names = constants_in(next(iter(runs.values())))
    tables: dict[str, Table] = {"": {}}
    for encoder, mine in runs.items():
        cells = overall(mine, ["retrieved", "other", "oracle"])
        tables[""][encoder] = {
            "found, retrieved": cells["retrieved"]["found"],
            "path error, %: retrieved less none": cells["retrieved"]["less none"],
            "other less none": cells["other"]["less none"],
            "oracle less none": cells["oracle"]["less none"],
            "law residual, %: retrieved less none": cells["retrieved"]["less none's"],
        }
        for name in names:
            found = of_constant(mine, ["retrieved", "other"], name)
            tables.setdefault(name, {})[encoder] = {
                "error, retrieved less none": found["retrieved"]["less none"],
                "other less none": found["other"]["less none"],
                "correlation with truth, retrieved": found["retrieved"]["correlation with truth"],
                "with the clips shown, other": found["other"]["with the clips shown"],
            }
    first, *more = runs
    if more:
        base = runs[first], "retrieved"
        tables[f"retrieved, less {first}"] = {name: less_errors((runs[name], "retrieved"), base) for name in more}
    return tables


def main(command: Claims) -> int:
    """Make one claim's tables; the exit code."""
    config, suffix = command.config, _evaluation(command, command.config).suffix
    if command.claim in ("knowledge", "plug", "guidance", "mixture"):
        made = measure_all(command, [config.encoder])[config.encoder]
        runs, names = [run for run, _ in made], made[0][1]
        tables = report(runs, names)
        if command.claim == "guidance":
            pairs = {name: kind for name in names for kind, _, way in [name.partition(", ")] if way}
            tables["less both branches"] = compared(runs, pairs)
        of = "" if config.encoder == "frequency" else f"-{config.encoder}"
        write(config.out / f"{command.claim}{of}{suffix}.json", tables)
        return 0
    some = command.encoders or get_args(EncoderName)
    found = measure_all(command, some)
    if command.claim in BY_BRANCH:
        tables = {encoder: branches.table(runs) for encoder, runs in found.items()}
    else:
        tables = compare_encoders({encoder: [run for run, _ in runs] for encoder, runs in found.items()})
    write(config.out / f"{command.claim}{suffix}.json", tables)
    return 0


if __name__ == "__main__":
    run_command(lambda: main(parse(Claims, __doc__)))
