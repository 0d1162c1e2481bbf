"""Commands on the pages of the documentation: each is parsed by the command line that it names, and not run."""

import argparse
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import tyro

from memkit import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "memkit" / "weights").glob("*/README.md"))
LAUNCHER = re.compile(
    r"(?:python|accelerate launch|torchrun)(?: [^`\n]*?)? -m ((?:memkit|recipes|benchmarks|tests)[\w.]*)(.*)"
)


BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.M | re.S)
NAMES = {"bank", "build", "evaluate", "inspect", "probe", "page"}
"""Of these alone, text names a command and does not give one to run."""

# modules that run as commands were imported before
pytestmark = pytest.mark.filterwarnings("ignore:.*found in sys.modules")


class Parsed(BaseException):
    """The command line was understood; what it would do is not done."""


def commands(text: str) -> list[str]:
    """Lines of shell code, and code between backticks, of a page; a line that ends in a backslash goes on."""
    shell = [code.replace("\\\n", " ") for language, code in BLOCK.findall(text) if language != "python"]
    lines = [line for code in shell for line in code.split("\n")]
    lines += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", BLOCK.sub("", text))]
    return [part.strip() for line in lines for part in line.split(" && ") if part.strip()]


def arguments(command: str) -> tuple[str, list[str]] | None:
    """The module that a command runs and its arguments; of other commands, and of names alone, nothing."""
    if command.startswith("memkit "):
        module, rest = "memkit", command.removeprefix("memkit ")
    elif found := LAUNCHER.match(command):
        module, rest = found[1], found[2]
    else:
        return None
    return module, shlex.split(rest, comments=True)


def found() -> dict[tuple[str, ...], str]:
    """Every command of the pages, once, with the first page that has it."""
    return {
        (parsed[0], *parsed[1]): page.name
        for page in reversed(PAGES)
        for command in commands(page.read_text(encoding="utf-8"))
        if (parsed := arguments(command)) and parsed[1] and not set(parsed[1]) <= NAMES
    }


COMMANDS = found()


@pytest.fixture
def parse(monkeypatch, capsys):
    """Has a module parse a command line as its ``__main__`` does; raises where it would begin to work."""

    def then_stop(parser):
        def stopping(*args, **kwargs):
            parser(*args, **kwargs)
            raise Parsed

        return stopping

    def run(module: str, *rest: str) -> None:
        monkeypatch.setattr(sys, "argv", [module, *rest])
        if module == "tests.faults":
            monkeypatch.setattr(argparse.ArgumentParser, "parse_args", then_stop(argparse.ArgumentParser.parse_args))
        for place, name in ((tyro, "cli"), (tyro.extras, "subcommand_cli_from_dict")):
            monkeypatch.setattr(place, name, then_stop(getattr(place, name)))
        try:
            if module == "memkit":
                cli.main(rest)
            else:
                runpy.run_module(module, run_name="__main__", alter_sys=True)
        except Parsed:
            return
        except SystemExit as end:
            assert not end.code and "--help" in rest, capsys.readouterr().err
            return
        raise AssertionError("no command line was parsed")

    return run


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_of_a_page_is_understood(parse, command):
    parse(*command)


@pytest.mark.parametrize(
    "command", ["memkit plan --models x", "recipes.remind.train --preset huge", "tests.faults --of x"]
)
def test_a_command_that_would_fail_is_noticed(parse, command):
    with pytest.raises(AssertionError, match="models|preset|--of"):
        parse(*command.split())


def test_commands_are_found_in_blocks_and_in_text():
    text = "`memkit bank\nverify x`\n\n  ```bash\n  a=1 torchrun -m recipes.x \\\n    --y 'a b'  # c\n  ```\n"
    assert commands(text) == ["a=1 torchrun -m recipes.x      --y 'a b'  # c", "memkit bank verify x"]
    assert arguments("torchrun --n 2 -m recipes.x --y 'a b'  # c") == ("recipes.x", ["--y", "a b"])
    assert arguments("pip install -e .") is None and len(COMMANDS) > 80
