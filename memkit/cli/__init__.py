"""The command line; see `memkit.cli.command`."""

from memkit.cli.command import main

__all__ = ["main"]
