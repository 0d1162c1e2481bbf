"""Hearing a model's public ``cache_context``, by which diffusers' pipelines announce their passes "cond" and "uncond".

diffusers keeps the context in the state of its own hooks, which is private; the method is public. Listeners are entered
in the order in which they began to listen, and may stop in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from torch import nn

_METHOD = "cache_context"

Listener = Callable[[str, dict[str, Any]], AbstractContextManager[None]]
"""A context manager in which a pass runs, from its name and what else the pipeline says about it."""


def listen(model: nn.Module, listener: Listener) -> Callable[[], None]:
    """Enter ``listener`` in every ``model.cache_context(name, ...)``, until the function that is returned is called.

    Models that have no ``cache_context`` are never heard.
    """
    if not hasattr(model, _METHOD):
        return lambda: None
    heard = vars(model).get(_METHOD)
    if not isinstance(heard, _HeardContext):
        heard = _HeardContext(model)
        setattr(model, _METHOD, heard)
    heard.listeners.append(listener)

    def stop() -> None:
        heard.listeners.remove(listener)
        if not heard.listeners and vars(model).get(_METHOD) is heard:
            delattr(model, _METHOD)

    return stop


def own_context(model: Any) -> Callable[..., AbstractContextManager[None]]:
    """The ``cache_context`` that diffusers' caches see, and listeners do not."""
    context = model.cache_context
    return context.own if isinstance(context, _HeardContext) else context


class _HeardContext:
    """Stands for the method ``cache_context`` of one model."""

    def __init__(self, model: Any) -> None:
        self.own = model.cache_context
        self.listeners: list[Listener] = []

    @contextmanager
    def __call__(self, name: str, **about: Any) -> Iterator[None]:
        with self.own(name, **about), ExitStack() as stack:
            for listener in self.listeners:
                stack.enter_context(listener(name, about))
            yield
