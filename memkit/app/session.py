"""What one visitor of the page has: a walk, and the switch that stops what runs for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from memkit.app.stop import Report, Stopped, Switch
from memkit.app.walk import Chunk, Walk
from memkit.errors import MemkitError


@dataclass
class Session:
    """The state of one visitor."""

    walk: Walk | None = None
    chunks: list[Chunk] = field(default_factory=list)
    switch: Switch = field(default_factory=Switch)


def answer(gr: Any, outputs: int, work: Callable[[], tuple[str, ...]]) -> Any:
    """The result of ``work`` for so many outputs of the page, where errors of memkit become messages.

    Work that was stopped leaves the outputs as they are, with a note; any other error of memkit is shown as one.
    """
    try:
        return work()
    except Stopped as stopped:
        gr.Info(str(stopped), duration=5)
        return [gr.skip()] * outputs
    except MemkitError as error:
        raise gr.Error(str(error), print_exception=False) from error


def reporter(progress: Callable[..., Any], text: str) -> Report:
    """A report of progress for `watched`, which Gradio shows as a bar."""
    return lambda share: progress(share, desc=text)
