"""Banks that many processes fill together.

The processes, of one machine or of many that see the same folder, agree by files alone: a block of clips belongs to the
process that has locked its claim, and becomes a bank of its own in ``BANK-parts``. Each process holds a lock on a
``.process`` file there while it works. When rank 0 finds nothing left to claim, it waits until the others are done (a
lock ends with the process that has it), encodes what one that died has left, and joins the parts, which are then
removed. Killed at any point, the same launch with any number of processes goes on.
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

from memkit.banks import MemoryBank, join_banks
from memkit.errors import BankError, InputError

BLOCK = 16  # clips that one of many processes takes at a time
PATIENCE = 1800.0  # seconds that rank 0 waits for a process that commits nothing

Result = TypeVar("Result")


def fill_together(out: Path, ids: Sequence[str], fill: Callable[[Path, Sequence[str]], Result]) -> Result | None:
    """Run ``fill(out, ids)`` with all processes of a launch; return its result in rank 0, which ends last, else None.

    ``fill(path, ids)`` opens or creates the bank ``path`` and adds the clips that it lacks. RANK and WORLD_SIZE come
    from the environment. A single process, without parts left by others, just makes that call. Raises `BankError` if a
    running process commits nothing for half an hour, or parts were built with other settings.
    """
    rank, world = _launched()
    parts, joined = _folder(out), out.with_name(f"{out.name}-parts-joined")
    if rank == 0:
        shutil.rmtree(joined, ignore_errors=True)  # left by a run that was killed while removing them
    whole = (out / "bank.json").exists() and {*MemoryBank.open(out).ids}.issuperset(ids)
    if (world == 1 or whole) and not parts.exists():
        return fill(out, ids) if rank == 0 else None
    with ExitStack() as at_work:
        with _lock(parts / ".lock"):
            at_work.enter_context(_lock(parts / f"{_own_name(rank)}.process"))
            fill(out, [])  # refuses other settings before anything is encoded
        _encode(out, ids, fill, rank, world)
    if rank != 0:
        return None
    with _last(parts):
        _encode(out, ids, fill, rank, world)  # what a process that was killed has left
        banks = parts_of(out)
        place = {id: n for n, id in enumerate(ids)}
        clips = sorted((id for bank in banks for id in bank.ids), key=lambda id: place.get(id, len(ids)))
        if banks:
            join_banks([bank.path for bank in banks], out, clips)
        result = fill(out, ids)  # only items that could not be encoded are left; this reports them
        parts.rename(joined)
        shutil.rmtree(joined, ignore_errors=True)
    return result


def _encode(out: Path, ids: Sequence[str], fill: Callable[[Path, Sequence[str]], Any], rank: int, world: int) -> None:
    """One round over the blocks, beginning with this rank's share: encode those that no other process has claimed."""
    target, parts = MemoryBank.open(out), parts_of(out)
    for part in parts:
        if part.info != target.info:
            raise BankError(
                f"{part.path} was made with {part.info}, not {target.info}; "
                f"finish that run with its settings, or remove {_folder(out)}."
            )
    there = {id for bank in (target, *parts) for id in bank.ids}
    blocks = [ids[start : start + BLOCK] for start in range(0, len(ids), BLOCK)]
    work = {_folder(out) / _name(n, block): block for n, block in enumerate(blocks) if not there.issuperset(block)}
    first = rank * len(work) // world
    bar = tqdm(total=len(work), desc=out.name, unit="block", disable=rank != 0 or not work)
    for path in [*work][first:] + [*work][:first]:
        done = path.with_suffix(".done")
        try:
            claim = _lock(path.with_suffix(".claim"), blocking=False)
        except BlockingIOError:
            continue
        with claim:
            if done.exists():
                continue
            if not (path / "bank.json").exists():
                MemoryBank.create(path, target.info)
            fill(path, [id for id in work[path] if id not in there])
            done.touch()
        bar.update(sum(path.with_suffix(".done").exists() for path in work) - bar.n)
    bar.close()


def _launched() -> tuple[int, int]:
    try:
        rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    except ValueError as error:
        raise InputError(f"RANK and WORLD_SIZE must be whole numbers ({error}); use torchrun.") from error
    if not 0 <= rank < world:
        raise InputError(f"RANK {rank} does not fit WORLD_SIZE {world}; use torchrun.")
    return rank, world


def _folder(out: Path) -> Path:
    return out.with_name(f"{out.name}-parts")


def parts_of(out: Path) -> list[MemoryBank]:
    """The existing parts of the bank ``out``, in the order of their blocks."""
    return [MemoryBank.open(header.parent) for header in sorted(_folder(out).glob("*/bank.json"))]


def _name(number: int, block: Sequence[str]) -> str:
    """The name of a block's part and claim; other clips give another name."""
    return f"{number:06d}-{hashlib.sha256(json.dumps(list(block)).encode()).hexdigest()[:8]}"


def _lock(path: Path, blocking: bool = True) -> ExitStack:
    """Lock the file ``path`` until the result is closed or the process ends; BlockingIOError where it must not wait."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # rank 0 is removing the folder
            continue
        except OSError as error:
            raise BankError(f"Cannot write {path} ({error}); give an --out that can be written.") from error
        with ExitStack() as held:
            held.callback(os.close, file)
            try:
                if not lock_descriptor(file, blocking=blocking):
                    raise BlockingIOError
                held.callback(unlock_descriptor, file)  # closing is not enough: a forked child may have it open too
                if os.path.samestat(os.fstat(file), os.stat(path)):
                    return held.pop_all()
            except BlockingIOError:
                raise
            except FileNotFoundError:  # rank 0 has removed the folder
                continue
            except OSError as error:
                raise BankError(f"Cannot lock {path} ({error}); give an --out on a disk that has locks.") from error


def _last(parts: Path) -> ExitStack:
    """Wait until all other processes are done; the lock of the folder, which lets no other process begin."""
    seen, since, told = None, time.monotonic(), False
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
        if not told:
            print(f"{parts}: waiting for {working}", file=sys.stderr)
            told = True
        time.sleep(0.5)


def _own_name(rank: int) -> str:
    return f"rank {rank}, process {os.getpid()} on {socket.gethostname()} {uuid.uuid4().hex}"


def _working(parts: Path) -> str:
    """The names of the processes that are at work now; empty if there is none."""
    names = []
    for path in sorted(parts.glob("*.process")):
        try:
            _lock(path, blocking=False).close()
        except BlockingIOError:
            names.append(path.stem.rpartition(" ")[0])
    return " and ".join(names)
