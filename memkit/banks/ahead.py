"""`read_ahead`: the next clips are read and decoded in threads while one is encoded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar

READERS = 2
"""Threads that read ahead. Each holds a clip, which for 81 frames of 480×832 in float32 is 0.4 GB."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(read: Callable[[Item], Result], items: Sequence[Item]) -> closing[Generator[Future[Result], None, None]]:
    """The calls of ``read`` for each item, in order; those of the following items run meanwhile.

    What a call returned or raised comes from ``result()`` of its future. FFmpeg and torch release the interpreter's
    lock, so that threads are enough. Leaving the ``with`` statement ends the threads.
    """
    return closing(_calls(read, items))


def _calls(read: Callable[[Item], Result], items: Sequence[Item]) -> Generator[Future[Result], None, None]:
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(READERS, thread_name_prefix="memkit-read")
    try:
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) > READERS:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        pool.shutdown(cancel_futures=True)
