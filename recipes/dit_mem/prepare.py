"""Make the memory banks, or go on where a run was stopped.

    python -m recipes.dit_mem.prepare --preset tiny
    python -m recipes.dit_mem.prepare --preset wan2.1-1.3b --videos DIR --captions CSV
    torchrun --nproc-per-node 8 -m recipes.dit_mem.prepare --preset wan2.1-1.3b --videos DIR --captions CSV

Without ``--videos`` the clips are rendered from the laws world: OUT/bank to train on, OUT/bank-test of planets that
nothing was trained on. With it, OUT/bank holds your clips.

Several processes, of one machine or of many that see the same OUT, each on an accelerator of its own, share the work
and make the bank that one would have made. They agree by files alone: a block of clips belongs to the process that has
locked its claim, and becomes a bank of its own in OUT/bank-parts. When rank 0 finds nothing left to claim, it waits
until the others are done (a lock ends with the process that has it), encodes what one that died has left, and joins
the parts, which are then removed. Killed at any point, the same command with any number of processes goes on.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO, TypeVar

import torch
from tqdm import tqdm

from memkit.backbones import WanBackbone
from memkit.bank import MemoryBank
from memkit.bank_join import join_banks
from memkit.errors import BankError, InputError
from memkit.ingest import BuildReport, add_rows, bank_for, clip_settings, encode_file, read_captions
from memkit.video import to_model
from recipes.dit_mem.laws import clip_ids, law_of
from recipes.dit_mem.parts import load_backbone, run_command
from recipes.dit_mem.presets import Command, Config, parse

COMMIT_EVERY = 32  # clips
BLOCK = 16  # clips that one of many processes takes at a time
PATIENCE = 1800.0  # seconds that rank 0 waits for a process that commits nothing

Result = TypeVar("Result")


@dataclass(frozen=True)
class Prepare(Command):
    """The command line."""

    videos: Path | None = None
    """Folder of your own videos, instead of the laws world."""
    captions: Path | None = None
    """Their captions: CSV with the columns video and caption, optionally id and source."""
    skip_bad: bool = False
    """Exit with 0 although some videos could not be used; they are listed either way."""


def main(command: Prepare) -> int:
    """Build what is missing; the exit code."""
    config = command.config
    if (command.videos is None) != (command.captions is None):
        raise InputError("--videos and --captions go together.")
    if command.videos is None and config.model != "tiny" and not Path(config.model).is_dir():
        raise InputError(
            f"The laws world is too small for {config.model}; give your clips: --videos DIR --captions CSV."
        )
    if "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    backbone = load_backbone(config)
    if command.videos is not None and command.captions is not None:
        return _ingest(config, command.videos, command.captions, command.skip_bad, backbone)
    render_bank(config.bank, clip_ids("train", config.train_clips, config.seed), config.model, backbone)
    render_bank(config.test_bank, clip_ids("test", config.test_clips, config.seed), config.model, backbone)
    return 0


def render_bank(path: Path, ids: list[str], model: str, backbone: WanBackbone) -> None:
    """Add the clips of the laws world that ``path`` lacks, each a source of its own."""
    form = backbone.video_format
    if form.height != form.width:
        raise InputError(f"The laws world renders square clips, {model} makes {form.width}×{form.height}.")
    info: dict[str, Any] = {"world": "laws", "model": model, **asdict(form)}

    def fill(into: Path, some: Sequence[str]) -> None:
        bank = MemoryBank.open(into) if (into / "bank.json").exists() else MemoryBank.create(into, info)
        if bank.info != info:
            raise BankError(f"The bank {into} was made with {bank.info}, not {info}; give another --out.")
        parts = _parts(path) if into == path else []
        if strange := sorted({id for known in (bank, *parts) for id in known.ids} - set(ids)):
            raise BankError(
                f"The bank {path} has clips of another seed or a larger set, as {strange[0]}; give another --out."
            )
        lack = [id for id in some if id not in bank]
        with bank:
            for done, id in enumerate(tqdm(lack, desc=path.name, unit="clip", disable=into != path or not lack), 1):
                law = law_of(id)
                video = law.video(form.num_frames, form.fps, form.height)
                bank.add(id, backbone.encode_video(to_model(video))[0].cpu(), law.caption, source=id)
                if done % COMMIT_EVERY == 0:
                    bank.flush()

    fill_together(path, ids, fill)


def _ingest(config: Config, videos: Path, captions: Path, skip_bad: bool, backbone: WanBackbone) -> int:
    rows, bad = read_captions(captions, videos)
    by_id = {row.id: row for row in rows}
    settings = clip_settings(backbone, config.model)
    before = MemoryBank.open(config.bank).ids if (config.bank / "bank.json").exists() else []

    def fill(into: Path, ids: Sequence[str]) -> BuildReport:
        with bank_for(into, settings) as bank:
            some = [by_id[id] for id in ids]
            return add_rows(bank, some, lambda row: encode_file(row.file, backbone, settings), into == config.bank)

    report = fill_together(config.bank, list(by_id), fill)
    if report is None:
        return 0
    bad = sorted(bad + report.bad)
    for item in bad:
        print(f"{captions}:{item.line}: {item.name}: {item.reason}", file=sys.stderr)
    added = {*report.added, *report.present}.difference(before)
    there = len(report.added) + len(report.present) - len(added)
    print(f"{config.bank}: {len(added)} clips added, {there} were there, {len(bad)} bad")
    return 1 if bad and not skip_bad else 0


# -- many processes


def fill_together(out: Path, ids: Sequence[str], fill: Callable[[Path, Sequence[str]], Result]) -> Result | None:
    """What ``fill(out, ids)`` does and returns, by all processes of a launch; None in all but rank 0, which ends last.

    ``fill(path, ids)`` opens the bank ``path`` or makes it, and adds those of the clips that it lacks. Environment:
    RANK and WORLD_SIZE. Alone, with no parts left by others, it is that call. Raises `BankError` where a process that
    lives commits nothing for half an hour, or parts were made with other settings.
    """
    rank, world = _launched()
    parts, joined = _folder(out), out.with_name(f"{out.name}-parts-joined")
    if rank == 0:
        shutil.rmtree(joined, ignore_errors=True)  # of a run that was killed as it removed them
    whole = (out / "bank.json").exists() and {*MemoryBank.open(out).ids}.issuperset(ids)
    if (world == 1 or whole) and not parts.exists():
        return fill(out, ids) if rank == 0 else None
    with _lock(parts / ".lock", fcntl.LOCK_SH):
        with _lock(parts / ".setup", fcntl.LOCK_EX):
            fill(out, [])  # refuses other settings before anything is encoded
        _encode(out, ids, fill, rank, world)
    if rank != 0:
        return None
    with _last(parts):
        _encode(out, ids, fill, rank, world)  # what a process that died has left
        banks = _parts(out)
        place = {id: n for n, id in enumerate(ids)}
        clips = sorted((id for bank in banks for id in bank.ids), key=lambda id: place.get(id, len(ids)))
        if banks:
            join_banks([bank.path for bank in banks], out, clips)
        result = fill(out, ids)  # nothing but what could not be encoded: it says why
        parts.rename(joined)
        shutil.rmtree(joined, ignore_errors=True)
    return result


def _encode(out: Path, ids: Sequence[str], fill: Callable[[Path, Sequence[str]], Any], rank: int, world: int) -> None:
    """One round over the blocks, from this rank's share on: encode what is missing and in no other's hands."""
    target, parts = MemoryBank.open(out), _parts(out)
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
            claim = _lock(path.with_suffix(".claim"), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        with claim:
            if done.exists():
                continue
            claim.truncate(0)
            claim.write(f"rank {rank}, process {os.getpid()} on {socket.gethostname()}")
            claim.flush()
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


def _parts(out: Path) -> list[MemoryBank]:
    return [MemoryBank.open(header.parent) for header in sorted(_folder(out).glob("*/bank.json"))]


def _name(number: int, block: Sequence[str]) -> str:
    """Of a block, its part, claim and end: other clips, another name."""
    return f"{number:06d}-{hashlib.sha256(json.dumps(list(block)).encode()).hexdigest()[:8]}"


def _lock(path: Path, how: int) -> TextIO:
    """The file ``path``, locked until it is closed or the process ends; BlockingIOError where ``how`` must not wait."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(path, "a+", encoding="utf-8")  # noqa: SIM115  (the lock is as long as it is open)
        except FileNotFoundError:  # rank 0 is removing the folder
            continue
        except OSError as error:
            raise BankError(f"Cannot write {path} ({error}); give an --out that can be written.") from error
        try:
            fcntl.flock(file, how)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        except FileNotFoundError:  # it has removed it
            pass
        except BlockingIOError:
            file.close()
            raise
        except OSError as error:
            raise BankError(f"Cannot lock {path} ({error}); give an --out on a disk that has locks.") from error
        file.close()


def _last(parts: Path) -> TextIO:
    """The folder's lock for rank 0 alone, when all others are done."""
    seen, since, told = None, time.monotonic(), False
    while True:
        try:
            return _lock(parts / ".lock", fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            now = {file: file.stat().st_size for file in parts.glob("*/clips.jsonl")}
        if now != seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() - since > PATIENCE:
            raise BankError(
                f"{_holders(parts)} has committed nothing to {parts} for {PATIENCE / 60:.0f} min; "
                f"end it and run the command again, which goes on from here."
            )
        if not told:
            print(f"{parts}: waiting for {_holders(parts)}", file=sys.stderr)
            told = True
        time.sleep(0.5)


def _holders(parts: Path) -> str:
    """Who has claims now."""
    names = []
    for path in sorted(parts.glob("*.claim")):
        try:
            _lock(path, fcntl.LOCK_SH | fcntl.LOCK_NB).close()
        except BlockingIOError:
            names.append(path.read_text())
    return " and ".join(names) or "another process"


if __name__ == "__main__":
    run_command(lambda: main(parse(Prepare, __doc__)))
