"""Command lines of a recipe: a preset gives the defaults, flags replace them, an expected error is one line."""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro
from safetensors import SafetensorError

from memkit.checks import check_choice
from memkit.errors import MemkitError
from memkit.training.settings import DataSettings, RunSettings, SampleSettings, TrainSettings
from memkit.training.smoke import NOTICE, smaller, smaller_settings

AnyCommand = TypeVar("AnyCommand")
SAMPLES = (SampleSettings,)
TRAINS = (TrainSettings,)
PREPARES = (DataSettings,)
"""Groups of settings that ``--help`` shows besides those of a run: the class variable ``shows`` of a command."""
USUAL = {"model", "out", "banks", "device", "seed", "steps", "batch", "lr", "sampling_steps", "guidance_scale"}
USUAL |= {"method", "suite", "k", "train_clips", "test_clips", "train_videos", "test_videos"}
"""The settings that ``--help`` shows, as far as they are in those groups; ``--help-all`` shows all of the groups."""
_MORE = "\nThese are the usual settings; --help-all lists all of them.\n"


def parse_with(
    presets: Mapping[str, Callable[[], Any]],
    command: Callable[..., AnyCommand],
    description: str | None,
    arguments: Sequence[str] | None = None,
    small: Mapping[str, Any] = MappingProxyType({}),
) -> AnyCommand:
    """The command line of ``command(config=…)``: ``--preset NAME`` gives the configuration (default "tiny"), and every
    other flag replaces one value. With ``--smoke`` the defaults are the smallest that go through every stage: those of
    `memkit.training.smoke.SMALL`, and the recipe's ``small``.

    Every command takes all settings, so that one set of flags describes a run from ``prepare`` to ``evaluate``;
    ``--help-all`` shows those of a run and those of the groups in ``command.shows``, ``--help`` the `USUAL` ones.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default="tiny")
    first.add_argument("--smoke", action="store_true")
    known, rest = first.parse_known_args(list(sys.argv[1:] if arguments is None else arguments))
    check_choice("--preset", known.preset, presets)
    config, program = presets[known.preset](), _program(command)
    text = f"--preset {{{','.join(presets)}}} gives the defaults below (now those of {known.preset}); "
    text += "--smoke, the smallest sizes.\n\n"
    text += description or ""
    shown: Any = command
    if asked := {"-h", "--help", "--help-all"} & set(rest):
        whole = "--help-all" in asked
        shown, config = _for_help(shown, config, whole)
        rest = ["--help" if flag in asked else flag for flag in rest]
        text += "\nThe settings that other commands of the recipe list are accepted too.\n" if whole else _MORE
    default = shown(config=config)
    if known.smoke:
        default = smaller(default, small)
        if os.environ.get("RANK", "0") == "0":
            print(NOTICE, flush=True)
    return tyro.cli(shown, args=rest, default=default, description=text, prog=f"python -m {program}")


def _program(command: Any) -> str:
    """The module that defines the command, also when it is the one being run."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if command.__module__ == "__main__" and spec is not None else command.__module__


def _for_help(command: Any, config: Any, whole: bool) -> tuple[Any, Any]:
    """The command and its configuration without the fields of the groups of settings that it does not show, and unless
    the help is to be ``whole`` without all but the usual ones."""
    kind, groups = type(config), {TrainSettings, SampleSettings, DataSettings} - set(command.shows)
    bases = [base for base in kind.__mro__ if issubclass(base, tuple(groups)) and not issubclass(base, RunSettings)]
    hidden = {field.name for base in bases for field in dataclasses.fields(base)} - set(vars(kind)["__annotations__"])
    if not whole:
        hidden |= {field.name for field in dataclasses.fields(kind)} - USUAL
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(kind)}
    hints = get_type_hints(kind, include_extras=True)
    settings = _derived(kind, {name: (tyro.conf.Suppress[hints[name]], values[name]) for name in hidden})
    field = (Annotated[settings, tyro.conf.arg(name="")], dataclasses.field(default_factory=settings))
    return _derived(command, {"config": field}), settings(**values)


def _derived(kind: Any, fields: Mapping[str, tuple[Any, Any]]) -> Any:
    """The frozen dataclass with some fields of other types and defaults."""
    body = {"__annotations__": {name: hint for name, (hint, _) in fields.items()}, "__module__": kind.__module__}
    body |= {name: default for name, (_, default) in fields.items()}
    return dataclasses.dataclass(frozen=True)(type(kind.__name__, (kind,), body))


def command_of(
    recipe: str,
    presets: Mapping[str, Callable[[], Any]],
    stage: str,
    config: Any,
    small: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """A command of a recipe with the flags that give it this configuration: "python -m recipes.remind.train …".

    They are the preset that it is nearest to, with ``--smoke`` if that is nearer, and the values that differ from it.
    """
    options: list[list[str]] = []
    for name, preset in presets.items():
        for smoke, base in (([], preset()), (["--smoke"], smaller_settings(preset(), small))):
            changed = [f.name for f in dataclasses.fields(config) if getattr(config, f.name) != getattr(base, f.name)]
            flags = [part for field in changed for part in _flag(field, getattr(config, field))]
            options.append(["--preset", name, *smoke, *flags])
    return shlex.join(["python", "-m", f"{recipe}.{stage}", *min(options, key=len)])


def _flag(name: str, value: Any) -> list[str]:
    name = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    return [f"--{name}", *map(str, value if isinstance(value, tuple) else [value])]


def report_done(out: Path, next_command: str | None = None) -> None:
    """Print where the output of a command is and which command comes next; of several processes, rank 0 does."""
    if os.environ.get("RANK", "0") == "0":
        print(f"Results are in {out}.")
        if next_command is not None:
            print(f"Next: {next_command}")


def run_command(command: Callable[[], object]) -> None:
    """Exit with the command's code, 0 where it returns no number; an expected error is one line, not a traceback."""
    try:
        code = command()
        sys.exit(code if isinstance(code, int) else 0)
    except (MemkitError, OSError, SafetensorError) as error:  # of the system: no access, a full disk
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from what is saved", file=sys.stderr)
        sys.exit(130)
