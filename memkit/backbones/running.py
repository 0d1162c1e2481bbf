"""`Running`: the chunk in which an attached transformer runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from memkit.errors import MemkitError

Chunk = TypeVar("Chunk")


class Running(Generic[Chunk]):
    """The chunk that is open for an attachment; at most one at a time."""

    def __init__(self, kind: str, begin: Callable[[], None]) -> None:
        self._kind, self._begin = kind, begin
        self._chunk: Chunk | None = None

    def enter(self, chunk: Chunk) -> None:
        """Open a chunk. Raises `MemkitError` if another one is open."""
        if self._chunk is not None:
            raise MemkitError(f"A chunk of {self._kind} is open already; chunks do not nest.")
        self._begin()
        self._chunk = chunk

    def leave(self) -> None:
        """Close the chunk."""
        self._chunk = None

    def current(self) -> Chunk:
        """The open chunk. Raises `MemkitError` if there is none."""
        if self._chunk is None:
            raise MemkitError(
                f"A transformer with {self._kind} ran outside a chunk; call it inside `with attached.chunk(...):`, or "
                f"detach {self._kind}."
            )
        return self._chunk

    def is_running(self, chunk: object) -> bool:
        """Whether this chunk is the open one."""
        return self._chunk is chunk
