"""Command lines of a recipe: a preset gives the defaults, flags replace them, an expected error is one line."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro

from memkit.errors import MemkitError
from recipes.common.settings import RunSettings, TrainSettings

AnyCommand = TypeVar("AnyCommand")


def parse_with(
    presets: Mapping[str, Callable[[], Any]],
    command: Callable[..., AnyCommand],
    description: str | None,
    arguments: Sequence[str] | None = None,
) -> AnyCommand:
    """The command line of ``command(config=…)``: ``--preset NAME`` gives the configuration (default "tiny"), and every
    other flag replaces one value.

    ``--help`` leaves out the training settings unless ``command.trains``; they are accepted by every command, so that
    one set of flags describes a run from ``prepare`` to ``evaluate``.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", choices=sorted(presets), default="tiny")
    known, rest = first.parse_known_args(list(sys.argv[1:] if arguments is None else arguments))
    config, program = presets[known.preset](), _program(command)
    text = f"--preset {{{','.join(presets)}}} gives the defaults below (now those of {known.preset}).\n\n"
    text += description or ""
    shown: Any = command
    if {"-h", "--help"} & set(rest) and not getattr(command, "trains", False):
        shown, config = _without_training(shown, config)
        text += "\nTraining settings are accepted too; the recipe's train command lists them with --help.\n"
    return tyro.cli(shown, args=rest, default=shown(config=config), description=text, prog=f"python -m {program}")


def _program(command: Any) -> str:
    """The module that defines the command, also when it is the one being run."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if command.__module__ == "__main__" and spec is not None else command.__module__


def _without_training(command: Any, config: Any) -> tuple[Any, Any]:
    """The command and its configuration with the fields of `TrainSettings`, and of classes derived from it, hidden."""
    kind = type(config)
    groups = [base for base in kind.__mro__ if issubclass(base, TrainSettings) and not issubclass(base, RunSettings)]
    hidden = {field.name for base in groups for field in dataclasses.fields(base)} - set(vars(kind)["__annotations__"])
    hints, values = (
        get_type_hints(kind, include_extras=True),
        {f.name: getattr(config, f.name) for f in dataclasses.fields(kind)},
    )
    own = {"__annotations__": {name: tyro.conf.Suppress[hints[name]] for name in hidden}, "__module__": kind.__module__}
    own |= {name: values[name] for name in hidden}
    settings: Any = dataclasses.dataclass(frozen=True)(type(kind.__name__, (kind,), own))
    flat = Annotated[settings, tyro.conf.arg(name="")]
    body = {"__annotations__": {"config": flat}, "config": dataclasses.field(default_factory=settings)}
    body["__module__"] = command.__module__
    return dataclasses.dataclass(frozen=True)(type(command.__name__, (command,), body)), settings(**values)


def report_done(out: Path, next_command: str | None = None) -> None:
    """Print where the output of a command is and which command comes next."""
    print(f"Results are in {out}.")
    if next_command is not None:
        print(f"Next: {next_command}")


def run_command(command: Callable[[], int]) -> None:
    """Exit with the command's code; an error that memkit raises on purpose is one line, not a traceback."""
    try:
        sys.exit(command())
    except MemkitError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
