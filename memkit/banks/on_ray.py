"""`build_bank_on_ray`: Ray Data encodes videos into a bank, on any number of workers and machines.

Ray Data rather than datasets with accelerate: the work is uneven, and workers die. Ray gives the next block to the
worker that is free, restarts one that died and repeats its block, and places workers on the GPUs of all machines;
accelerate's processes have fixed shares, and a launch ends with the first of them that dies.

Ray drives the parts of `memkit.banks.parallel`: each block of clips becomes a small bank in the folder ``BANK-parts``,
and these are joined. So a build that was begun on Ray can be finished by ``torchrun`` and the other way round, and what
is committed is never encoded again. All machines see the bank and the videos under the same paths.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from memkit.banks.build import BuildReport, VideoEncoder, bank_for, clip_settings, encode_rows
from memkit.banks.captions import Row, read_captions
from memkit.banks.fill import fill_with_rows
from memkit.banks.parallel import fill_in_parts, fill_part, registered, unfinished
from memkit.checks import check_number, check_whole
from memkit.errors import BankError, InputError


def build_bank_on_ray(
    videos: str | os.PathLike[str],
    captions: str | os.PathLike[str],
    out: str | os.PathLike[str],
    load_encoder: Callable[[], VideoEncoder],
    model: str,
    workers: int = 2,
    cpus: float = 1.0,
    gpus: float = 0.0,
    retries: int = 3,
) -> BuildReport:
    """`memkit.banks.build_bank` with the work done by Ray; the bank has the same clips, bit for bit.

    Connect to a cluster with ``ray.init(address=...)`` before; without that, Ray starts on this machine.

    Args:
        videos: folder of the videos, under the same path on all machines.
        captions: caption file, CSV.
        out: folder of the bank, under the same path on all machines.
        load_encoder: loads the encoder, such as ``functools.partial(WanCodec.from_pretrained, "Wan-AI/…")``: in each
            worker once, and in this process, which encodes nothing unless Ray could not.
        model: names the encoder in the bank's info.
        workers: number of processes that encode.
        cpus: CPU cores that Ray reserves for a worker.
        gpus: GPUs that Ray reserves for a worker; may be a fraction.
        retries: how often a worker that died is started again, and a block repeated.

    Raises:
        BankError: as `build_bank`; or workers die again and again, or Ray fails. What was encoded is kept, and the
            call goes on from there when it is repeated.
        InputError: an argument cannot be used, or Ray is not installed.
    """
    check_whole("workers", workers, 1)
    check_whole("retries", retries)
    check_number("cpus", cpus)
    check_number("gpus", gpus)
    data, errors = _ray()
    out, encoder = Path(out).absolute(), load_encoder()
    settings = clip_settings(encoder, model)
    rows, bad = read_captions(captions, Path(videos).absolute())
    by_id = {row.id: row for row in rows}

    def encode() -> None:
        info, work = unfinished(out, list(by_id))
        todo = {path: ids for path, ids in work.items() if not path.with_suffix(".done").exists()}
        if not todo:
            return
        items = [{"part": str(path), "rows": json.dumps([_packed(by_id[id]) for id in todo[path]])} for path in todo]
        with warnings.catch_warnings():  # no other argument of Ray 2.60 says how often a worker is started again
            warnings.simplefilter("ignore", DeprecationWarning)
            blocks = data.from_items(items, override_num_blocks=len(items)).map_batches(
                _Worker,
                fn_constructor_args=(str(out), load_encoder, settings, info),
                batch_size=1,
                compute=data.ActorPoolStrategy(size=min(workers, len(items))),
                num_cpus=cpus,
                num_gpus=gpus,
                ray_remote_args_fn=lambda: {"max_restarts": retries, "max_task_retries": retries},
            )
        try:
            for _ in tqdm(blocks.iter_rows(), total=len(items), desc=out.name, unit="block"):
                pass
        except errors as error:
            left = [ids[0] for path, ids in todo.items() if not path.with_suffix(".done").exists()]
            raise BankError(
                f"Ray could not encode {len(left)} of {len(todo)} blocks of {out}, such as the one that begins with "
                f"{left[0] if left else '?'!r} ({_first_line(error)}); run it again, which goes on from here."
            ) from error

    report = fill_with_rows(
        out, rows, bad, encoder, settings, lambda out, ids, fill: fill_in_parts(out, ids, fill, encode)
    )
    assert report is not None, "this process is rank 0"
    return report


class _Worker:
    """Encodes blocks of clips, each into a part of the bank; Ray makes one per process."""

    def __init__(
        self, out: str, load_encoder: Callable[[], VideoEncoder], settings: dict[str, Any], info: dict[str, Any]
    ) -> None:
        self.encoder, self.settings, self.info = load_encoder(), settings, info
        self.registered = registered(Path(out), 1)  # released when the process ends

    def __call__(self, blocks: dict[str, Any]) -> dict[str, Any]:
        for part, packed in zip(blocks["part"], blocks["rows"], strict=True):
            rows = {row.id: row for row in map(_unpacked, json.loads(str(packed)))}
            fill_part(Path(str(part)), self.info, list(rows), partial(self._fill, rows))
        return {"part": blocks["part"]}

    def _fill(self, rows: dict[str, Row], into: Path, ids: Sequence[str]) -> None:
        with bank_for(into, self.settings) as bank:
            some = [rows[id] for id in ids]
            encode_rows(bank, some, self.encoder, self.settings, False)


def _packed(row: Row) -> list[Any]:
    return [row.line, str(row.file), *row[2:]]


def _unpacked(values: list[Any]) -> Row:
    line, file, *texts = values
    return Row(line, Path(file), *texts)


def _ray() -> tuple[Any, Any]:
    """Ray's data module and the type of its errors."""
    try:
        import ray  # pyright: ignore[reportMissingImports]
        import ray.data  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError('Ray is not installed; run pip install "memkit[ray]".') from error
    return ray.data, ray.exceptions.RayError


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
