"""A call in a process of its own, with limits of time and memory: whatever it does, the harness goes on.

The process is a fork of a warm one, which costs milliseconds where a fresh interpreter with torch costs seconds.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import select
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn

import psutil
import torch

from memkit.errors import MemkitError
from tests.faults.outcomes import digest

CPU_SECONDS = 15
"""The time that a case may compute; each needs a few seconds at most. Other work on the machine does not count."""
SECONDS = 300.0
"""The time until a case has ended, in case that it waits for something."""
SPARE_BYTES = 3 << 30
"""Memory that a case may ask for beyond what the warm process has."""


class Found(NamedTuple):
    """How a call ended: with a ``value`` (its digest), an ``error``, or the ``death`` of the process."""

    value: str | None = None
    error: str = ""
    typed: bool = False
    """Whether the error is one of memkit's own."""
    said: str = ""
    """Warnings, and what was logged as a warning or an error."""
    death: str = ""
    """ "hang", or the signal or the exit code that ended the process."""


def isolated(call: Callable[[], object], seconds: float = SECONDS) -> Found:
    """Run ``call`` in a forked process and say how it ended."""
    return isolated_all([call], seconds)[-1]


def isolated_all(calls: Sequence[Callable[[], object]], seconds: float = SECONDS) -> list[Found]:
    """Run several calls, one after the other, in one forked process; where it dies, the last result says how."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        _run_and_tell(calls, write)
    os.close(write)
    told, in_time = _read_all(read, seconds)
    os.close(read)
    if not in_time:
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    results = [Found(**json.loads(line)) for line in told.splitlines()]
    if len(results) < len(calls):
        how = "hang" if not in_time else signal.Signals(-code).name if code < 0 else f"exit code {code}"
        results.append(Found(death="hang" if how == "SIGXCPU" else how))
    return results


def _read_all(pipe: int, seconds: float) -> tuple[bytes, bool]:
    """What the child writes, line by line, and whether each line, and the end, came in time."""
    told = b""
    while select.select([pipe], [], [], seconds)[0]:
        if not (part := os.read(pipe, 1 << 16)):
            return told, True
        told += part
    return told, False


def _run_and_tell(calls: Sequence[Callable[[], object]], pipe: int) -> NoReturn:
    try:
        quiet = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(quiet, descriptor)
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # what captures them may write to files
        limit = psutil.Process().memory_info().vms + SPARE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        torch.set_num_threads(1)
        for call in calls:
            used = resource.getrusage(resource.RUSAGE_SELF)
            limit = int(used.ru_utime + used.ru_stime) + CPU_SECONDS
            resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
            os.write(pipe, json.dumps(_found(call)._asdict()).encode() + b"\n")
    finally:
        os._exit(0)


def _found(call: Callable[[], object]) -> Found:
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("memkit").addHandler(handler)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = Found(value=digest(call()))
        except MemkitError as error:
            found = Found(error=f"{type(error).__name__}: {error}", typed=True)
        except BaseException as error:
            frames = traceback.extract_tb(error.__traceback__)
            place = next((frame for frame in reversed(frames) if "memkit/" in frame.filename), frames[-1])
            found = Found(error=f"{type(error).__name__}: {str(error)[:500]} [{place.filename}:{place.lineno}]")
    said += [str(warning.message) for warning in caught]
    return found._replace(said="\n".join(said)[:4000])
