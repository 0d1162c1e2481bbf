"""Forked processes that tests start, wait for and ask for their exit codes."""

from __future__ import annotations

import gc
import os
import time
import traceback
from collections.abc import Callable

import torch


def process(call: Callable[[], object]) -> int:
    """Id of a process that makes the call; it exits with 0 if the call returns and 1 if it raises."""
    child = os.fork()
    if child == 0:
        try:
            gc.freeze()  # what has threads in the parent must not be collected here: it would wait for them
            torch.set_num_threads(1)
            call()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return child


def code_of(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    raise TimeoutError
