"""Command lines of a recipe: a preset gives the defaults, flags replace them, an error on purpose is one line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from memkit.errors import MemkitError

AnyCommand = TypeVar("AnyCommand")


def parse_with(
    presets: Mapping[str, Callable[[], Any]],
    command: Callable[..., AnyCommand],
    description: str | None,
    arguments: Sequence[str] | None = None,
) -> AnyCommand:
    """The command line of ``command(config=…)``: ``--preset NAME`` gives the configuration, every other flag replaces
    one value; without it the preset is "tiny"."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", choices=sorted(presets), default="tiny")
    given = list(sys.argv[1:] if arguments is None else arguments)
    known, rest = first.parse_known_args(given)
    text = f"--preset {{{','.join(presets)}}} gives the defaults below (now those of {known.preset}).\n\n"
    default: Any = command(config=presets[known.preset]())
    return tyro.cli(command, args=rest, default=default, description=text + (description or ""))


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


def report_done(out: Path, next_command: str | None = None) -> None:
    """Say where the output is and, if there is one, which command comes next."""
    print(f"Output: {out}")
    if next_command is not None:
        print(f"Next: {next_command}")
