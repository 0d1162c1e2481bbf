"""The command ``memkit``.

    memkit demo
    memkit app
    memkit bank build --videos DIR --captions CSV --out BANK --model tiny|FOLDER|ID
    memkit bank import-dit-mem FOLDER --out BANK [--captions CSV] [--model tiny|FOLDER|ID]
    memkit bank verify BANK
    memkit bank show BANK
    memkit bank export BANK --out FOLDER [--seed 0]
    memkit retrieve BANK "a rubber ball bounces" -k 5
    memkit inspect FILE
    memkit probe my_module:MyMethod
    memkit plan --model wan2.1-t2v-14b --frames 81 --memory 5
    memkit evaluate --benchmark mind --data MIND --method my_module:MyMethod

Exit codes: 0 all well, 1 some items could not be used, 2 the command could not do its work, 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from memkit.app.command import App
from memkit.cli.bank import Bank
from memkit.cli.evaluate import Evaluate
from memkit.cli.inspect import Inspect
from memkit.cli.plan import Plan
from memkit.cli.probe import Probe
from memkit.cli.retrieve import Retrieve
from memkit.cli.text import one_line
from memkit.demo.demo import Demo
from memkit.errors import MemkitError
from memkit.quiet import quiet_libraries

Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[App, tyro.conf.subcommand("app")]
    | Annotated[Bank, tyro.conf.subcommand("bank")]
    | Annotated[Retrieve, tyro.conf.subcommand("retrieve")]
    | Annotated[Inspect, tyro.conf.subcommand("inspect")]
    | Annotated[Probe, tyro.conf.subcommand("probe")]
    | Annotated[Plan, tyro.conf.subcommand("plan")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    quiet_libraries()
    parser: Any = Command
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff)
    command = tyro.cli(parser, args=arguments, prog="memkit", description="Memory for video diffusion.", config=config)
    try:
        return command.run()
    except (MemkitError, OSError) as error:  # of the system: no access, a full disk
        print(f"memkit: {one_line(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("memkit: interrupted; what was done is kept, and the same command resumes from there", file=sys.stderr)
        return 130
