"""What one visitor of the page has: a walk, and the switch that stops what runs for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


@contextmanager
def messages(gradio: Any) -> Iterator[None]:
    """Errors of memkit are shown as messages of the page: what was stopped as a note, everything else as an error."""
    try:
        yield
    except Stopped as stopped:
        gradio.Info(str(stopped), duration=4)
        raise gradio.Error(str(stopped), visible=False, print_exception=False) from None
    except MemkitError as error:
        raise gradio.Error(str(error), print_exception=False) from error


def reporter(progress: Callable[..., Any], text: str) -> Report:
    """A report of progress for `watched`, which Gradio shows as a bar."""
    return lambda share: progress(share, desc=text)
