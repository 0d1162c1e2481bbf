"""Several runs at once, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

import torch

Argument = TypeVar("Argument")
Result = TypeVar("Result")


def parallel_map(function: Callable[[Argument], Result], arguments: Sequence[Argument], jobs: int) -> list[Result]:
    """``function`` of each argument, in order; with more than one job in so many processes of one thread each.

    The processes end with this one, however it ends: a killed command must not go on training.
    """
    if jobs == 1:
        return [function(argument) for argument in arguments]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=(os.getpid(),)) as pool:
        return list(pool.map(function, arguments))


def _begin(parent: int) -> None:
    torch.set_num_threads(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
