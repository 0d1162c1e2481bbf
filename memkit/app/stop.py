"""Progress of sampling, and a way to stop it between two calls of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from memkit.backbones.wan import WanBackbone
from memkit.errors import MemkitError

Report = Callable[[float], None]
"""Is called with the share of the work that is done, in [0, 1]."""


class Stopped(MemkitError):
    """The work was stopped on request; what was there before is unchanged."""


class Switch:
    """Asks work that runs in another thread to stop: ``ask()`` there, ``clear()`` before new work."""

    def __init__(self) -> None:
        self.asked = False

    def ask(self) -> None:
        self.asked = True

    def clear(self) -> None:
        self.asked = False

    def check(self) -> None:
        """Raise `Stopped` if it was asked for."""
        if self.asked:
            raise Stopped("Stopped. What was there before is unchanged.")


@contextmanager
def watched(backbone: WanBackbone, calls: int, switch: Switch, report: Report | None = None) -> Iterator[None]:
    """Inside, each call of the transformers reports its share of ``calls``, and raises `Stopped` if that was asked for.

    A call is one sampling step, or half of one with classifier-free guidance. All that is attached to the model is
    taken off by the context managers that attached it, so the model stays usable.
    """
    done = 0

    def before(module: Any, args: Any) -> None:
        nonlocal done
        switch.check()
        if report is not None:
            report(min(done / calls, 1.0))
        done += 1

    hooks = [transformer.register_forward_pre_hook(before) for transformer in backbone.transformers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
