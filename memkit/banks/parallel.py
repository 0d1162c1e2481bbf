"""`fill_together`: several processes fill one memory bank.

The processes run on one machine, or on several machines that share the folder, and coordinate through files alone. The
clips are divided into blocks. A block belongs to the process that holds the lock on its ``.claim`` file, and is written
to a bank of its own in the folder ``BANK-parts``. While a process works, it also holds a lock on a ``.process`` file
there; the system releases both locks when the process ends, however it ends. When rank 0 finds no block left to claim,
it waits for the other processes, encodes the blocks of those that died, joins the parts into the bank and removes them.
A launch that was killed at any point is resumed by another one with any number of processes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from filelock import lock_descriptor, unlock_descriptor
from tqdm import tqdm

from memkit.banks.bank import MemoryBank
from memkit.banks.join import join_banks
from memkit.errors import BankError, InputError
from memkit.files.atomic import writing

BLOCK = 16
"""Number of clips that a process claims at a time."""

PATIENCE = 1800.0
"""Seconds that rank 0 waits while no other process commits a clip."""

Result = TypeVar("Result")


def fill_together(out: Path, ids: Sequence[str], fill: Callable[[Path, Sequence[str]], Result]) -> Result | None:
    """Run ``fill(out, ids)``, with the work shared by all processes of a launch such as ``torchrun``'s.

    Call it in each process with the same arguments; rank and world size are read from the environment variables
    ``RANK`` and ``WORLD_SIZE``. A single process, if there are no parts of an earlier launch, only calls
    ``fill(out, ids)``.

    Args:
        out: folder of the bank.
        ids: ids of all the clips, in the order in which they are to be in the bank.
        fill: ``fill(path, ids)`` opens or creates the bank ``path`` and adds those of the clips ``ids`` that it lacks.
            It is called for parts of the bank, with some of the ids, and refuses a bank that has other settings.

    Returns:
        In rank 0, which returns last, the result of a final ``fill(out, ids)``; in all other processes, None.

    Raises:
        BankError: no process has committed a clip for half an hour although one is running, parts of an earlier launch
            have other settings, or the folder cannot be written or locked.
        InputError: ``RANK`` and ``WORLD_SIZE`` do not fit together; as `FileError`, the folder cannot be written.
    """
    rank, world = rank_and_world()

    def encode() -> None:
        info, work = unfinished(out, ids)
        first = rank * len(work) // world
        bar = tqdm(total=len(work), desc=out.name, unit="block", disable=rank != 0 or not work)
        for path in [*work][first:] + [*work][:first]:
            if fill_part(path, info, work[path], fill):
                bar.update(sum(path.with_suffix(".done").exists() for path in work) - bar.n)
        bar.close()

    return fill_in_parts(out, ids, fill, encode, rank, alone=world == 1)


def fill_in_parts(
    out: Path,
    ids: Sequence[str],
    fill: Callable[[Path, Sequence[str]], Result],
    encode: Callable[[], None],
    rank: int = 0,
    alone: bool = False,
) -> Result | None:
    """`fill_together` as process ``rank``, with ``encode`` to fill the parts that are `unfinished`.

    In rank 0, ``encode`` is called once more when no other process works any longer, for what those have left. If
    ``alone``, without parts of an earlier launch, ``fill`` does everything.
    """
    parts, joined = folder_of(out), out.with_name(f"{out.name}-parts-joined")
    if rank == 0:
        shutil.rmtree(joined, ignore_errors=True)  # left by a run that was killed while removing them
    complete = (out / "bank.json").exists() and {*MemoryBank.open(out).ids}.issuperset(ids)
    if (alone or complete) and not parts.exists():
        return fill(out, ids) if rank == 0 else None
    with ExitStack() as registration:
        with _lock(parts / ".lock"):
            registration.enter_context(registered(out, rank))
            fill(out, [])  # creates the bank once, and refuses one of other settings before anything is encoded
        encode()
    if rank != 0:
        return None
    with _wait_for_others(parts):
        encode()  # the blocks of processes that were killed
        banks = parts_of(out)
        place = {id: n for n, id in enumerate(ids)}
        clips = sorted((id for bank in banks for id in bank.ids), key=lambda id: place.get(id, len(ids)))
        if banks:
            join_banks([bank.path for bank in banks], out, clips)
        result = fill(out, ids)  # only clips that cannot be encoded are left; this reports them
        with writing(parts):
            parts.rename(joined)
        shutil.rmtree(joined, ignore_errors=True)
    return result


def registered(out: Path, rank: int) -> ExitStack:
    """Be known as a process that works on the parts of ``out``, until the returned stack is closed."""
    return _lock(folder_of(out) / f"{_own_name(rank)}.process")


def unfinished(out: Path, ids: Sequence[str]) -> tuple[dict[str, Any], dict[Path, list[str]]]:
    """The info of the bank ``out``, and the parts that have to be filled, with the ids of clips that no bank has yet.

    Raises:
        BankError: an earlier launch has made parts with other settings.
    """
    target, parts = MemoryBank.open(out), parts_of(out)
    for part in parts:
        if part.info != target.info:
            raise BankError(
                f"{part.path} was made with {part.info}, not {target.info}; "
                f"finish that run with its settings, or remove {folder_of(out)}."
            )
    present = {id for bank in (target, *parts) for id in bank.ids}
    blocks = [ids[start : start + BLOCK] for start in range(0, len(ids), BLOCK)]
    work = {folder_of(out) / _name(n, block): block for n, block in enumerate(blocks)}
    lack = {path: [id for id in block if id not in present] for path, block in work.items()}
    return target.info, {path: some for path, some in lack.items() if some}


def fill_part(path: Path, info: dict[str, Any], ids: Sequence[str], fill: Callable[[Path, Sequence[str]], Any]) -> bool:
    """Fill one of the `unfinished` parts; False where another process does, or has done it."""
    done = path.with_suffix(".done")
    try:
        claim = _lock(path.with_suffix(".claim"), blocking=False)
    except BlockingIOError:
        return False
    with claim:
        if done.exists():
            return False
        if not (path / "bank.json").exists():
            MemoryBank.create(path, info)
        fill(path, ids)
        with writing(done):
            done.touch()
    return True


def rank_and_world() -> tuple[int, int]:
    """The number of this process in its launch, and that of all, by ``RANK`` and ``WORLD_SIZE``; 0 and 1 without them.

    Raises `InputError` where they do not fit together.
    """
    try:
        rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    except ValueError as error:
        raise InputError(f"RANK and WORLD_SIZE must be whole numbers ({error}); use torchrun.") from error
    if not 0 <= rank < world:
        raise InputError(f"RANK {rank} does not fit WORLD_SIZE {world}; use torchrun.")
    return rank, world


def folder_of(out: Path) -> Path:
    """The folder of the parts of a bank."""
    return out.with_name(f"{out.name}-parts")


def parts_of(out: Path) -> list[MemoryBank]:
    """The parts of the bank ``out`` that an unfinished `fill_together` has written, in the order of their blocks."""
    return [MemoryBank.open(header.parent) for header in sorted(folder_of(out).glob("*/bank.json"))]


def _name(number: int, block: Sequence[str]) -> str:
    """The name of a block's part and claim, which differs for different clips."""
    return f"{number:06d}-{hashlib.sha256(json.dumps(list(block)).encode()).hexdigest()[:8]}"


def _lock(path: Path, blocking: bool = True) -> ExitStack:
    """Lock the file ``path`` until the returned stack is closed or the process ends.

    Raises `BlockingIOError` if another process holds the lock and ``blocking`` is False.
    """
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # rank 0 is removing the folder
            continue
        except OSError as error:
            raise BankError(f"Cannot write {path} ({error}); choose a folder that can be written.") from error
        with ExitStack() as held:
            held.callback(os.close, file)
            try:
                if not lock_descriptor(file, blocking=blocking):
                    raise BlockingIOError
                held.callback(unlock_descriptor, file)  # a forked child may keep the file open
                if os.path.samestat(os.fstat(file), os.stat(path)):
                    return held.pop_all()
            except BlockingIOError:
                raise
            except FileNotFoundError:  # rank 0 has removed the folder
                continue
            except OSError as error:
                raise BankError(f"Cannot lock {path} ({error}); choose a folder on a disk with file locks.") from error


def _wait_for_others(parts: Path) -> ExitStack:
    """Wait until no other process works; returns the lock of the folder, which keeps other processes from starting."""
    seen, since, reported = None, time.monotonic(), False
    while True:
        try:
            alone = _lock(parts / ".lock", blocking=False)
        except BlockingIOError:
            working = "another process"
        else:
            if not (working := _working(parts)):
                return alone
            alone.close()
        now = {file: file.stat().st_size for file in parts.glob("*/clips.jsonl")}
        if now != seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() - since > PATIENCE:
            raise BankError(
                f"{working} has committed nothing to {parts} for {PATIENCE / 60:.0f} min; "
                f"end it and run the command again, which goes on from here."
            )
        if not reported:
            print(f"{parts}: waiting for {working}", file=sys.stderr)
            reported = True
        time.sleep(0.5)


def _own_name(rank: int) -> str:
    return f"rank {rank}, process {os.getpid()} on {socket.gethostname()} {uuid.uuid4().hex}"


def _working(parts: Path) -> str:
    """The names of the processes that are running now, or an empty string."""
    names = []
    for path in sorted(parts.glob("*.process")):
        try:
            _lock(path, blocking=False).close()
        except BlockingIOError:
            names.append(path.stem.rpartition(" ")[0])
    return " and ".join(names)
