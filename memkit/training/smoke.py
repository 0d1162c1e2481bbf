"""``--smoke``: a recipe's commands at the smallest sizes that go through every stage, to see that they run."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from memkit.errors import InputError

Command = TypeVar("Command")
NOTICE = "This is a smoke run: the smallest sizes, to see that the commands run. Its numbers mean nothing."
SMALL: Mapping[str, Any] = {
    **{"steps": 2, "batch": 2, "gradient_accumulation_steps": 1, "warmup": 1, "save_every": 1, "log_every": 1},
    **{"sampling_steps": 1, "videos_at_once": 2, "at_once": 2, "keep": 1, "rooms": 1},
}
"""Values of the settings that recipes share, and of the flags of their commands, by name."""


def smaller(command: Command, small: Mapping[str, Any]) -> Command:
    """The command and its configuration with the values of `SMALL`, and of a recipe's own ``small``, for the fields
    that they have."""
    config: Any = command.config  # type: ignore[attr-defined]  # parse_with gives every command one
    return _replaced(command, small, config=smaller_settings(config, small))


def smaller_settings(config: Any, small: Mapping[str, Any]) -> Any:
    """The configuration of a smoke run, whose folder has a name of its own, so that no run is overwritten."""
    return _replaced(config, small, out=smoke_folder(config.out))


def _replaced(settings: Any, small: Mapping[str, Any], **more: Any) -> Any:
    names = {field.name for field in dataclasses.fields(settings)}
    values = {name: value for name, value in {**SMALL, **small}.items() if name in names}
    return dataclasses.replace(settings, **values, **more)


def smoke_folder(out: Path) -> Path:
    """The folder of a smoke run, beside that of the real one: runs/smoke-dit-mem-tiny."""
    return out.with_name(f"smoke-{out.name}")


def run_all(
    parse: Callable[..., Any], stages: Mapping[type, Callable[[Any], int]], arguments: Sequence[str] | None = None
) -> int:
    """Run the commands of a recipe one after the other in this process; the flags are given to each of them.

    ``stages`` has the function of each command by the class of its command line. Returns the first exit code that is
    not 0. Raises `InputError` without ``--smoke``, as real runs differ in their flags.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    recipe = next(iter(stages)).__module__.rpartition(".")[0]
    if "--smoke" not in given and not {"-h", "--help"} & set(given):
        names = ", ".join(stage.__module__.rpartition(".")[2] for stage in stages)
        raise InputError(f"python -m {recipe} takes --smoke; without it, run the commands one by one: {names}.")
    for stage, main in stages.items():
        print(f"== python -m {stage.__module__} {' '.join(given)}", flush=True)
        if code := main(parse(stage, f"One of the commands that python -m {recipe} --smoke runs.", given)):
            return code
    print(f"The commands of {recipe} ran. {NOTICE}")
    return 0
