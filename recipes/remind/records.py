"""A bank of interrupted clips, and their records: the latent frames that are hidden, and one caption per chunk."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from torch import Tensor

from memkit import frame_graph
from memkit.banks import MemoryBank, stack_clips
from memkit.cameras import Cameras
from memkit.errors import InputError
from memkit.files.json_files import read_rows, write_rows
from memkit.interruptions import Phases, PosedFrames
from recipes.remind.presets import Config

TWIN = "/twin"
RECORDS = "records.jsonl"
"""File of the records, in the folder of a bank."""
_TRIES = 200
Sample = TypeVar("Sample")


class Record(NamedTuple):
    """The interruption of a clip, in latent frames (`Phases`), and its captions, which the bank does not hold."""

    id: str
    by: str
    hidden: tuple[int, int]
    """Latent frames [start, stop) in which the view is hidden."""
    clear: int
    """The first latent frame that is clean again."""
    captions: tuple[str, ...]
    """One caption per chunk of the interrupted clip."""
    twin_caption: str


class Clip(Protocol):
    """An interrupted clip and its uninterrupted twin, which `recipes.remind.prepare` encodes."""

    @property
    def id(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def record(self) -> Record: ...
    def videos(self) -> tuple[PosedFrames, PosedFrames]: ...  # the interrupted clip and its twin


def twin_of(id: str) -> str:
    """The id of the uninterrupted twin."""
    return id + TWIN


def chunk_spans(config: Config) -> list[tuple[int, int]]:
    """The latent frames [start, stop) of each chunk."""
    return frame_graph.chunk_spans(config.latents, config.chunk, config.first)


def sample_fitting(
    samplers: Sequence[Callable[[], Sample]], amount: Callable[[Sample], Tensor], config: Config, name: str
) -> Sample:
    """The first sample that fits into a clip. Each sampler is tried many times, as some kinds never fit a short clip.

    A sample fits if the first and the last chunk are clean and the chunk in which the interruption begins ends hidden.
    Raises `InputError` if none fits.
    """
    chunks = chunk_spans(config)
    for sampler in samplers:
        for _ in range(_TRIES):
            sample = sampler()
            start, stop, clear = Phases.of(amount(sample))
            ends = next((b for a, b in chunks if a <= start < b), config.latents)
            if start >= chunks[0][1] and clear <= chunks[-1][0] and ends <= stop:
                return sample
    raise InputError(f"{name}: no interruption fits into a clip of {len(chunks)} chunks; increase --frames.")


def write_records(bank: Path, records: Sequence[Record]) -> None:
    """Write the records into the bank's folder; a crash leaves the old file or the new one."""
    write_rows(bank / RECORDS, [record._asdict() for record in records])


def read_records(bank: Path) -> list[Record]:
    """Read what `write_records` wrote. Raises `InputError` naming the line that is damaged or not a record."""
    file, records, remedy = bank / RECORDS, [], "run recipes.remind.prepare, which writes it once the bank is complete"
    for i, row in enumerate(read_rows(file, remedy), 1):
        try:
            start, stop = (int(x) for x in row.pop("hidden"))
            records.append(Record(**{**row, "captions": tuple(row["captions"])}, hidden=(start, stop)))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{file}, line {i} is not a record ({error!r}); {remedy}.") from error
    return records


class ClipBank:
    """The clips of a bank with their records, grouped by their hidden frames."""

    def __init__(self, bank: MemoryBank, config: Config) -> None:
        info = bank.info
        if info.get("recipe") != "remind" or info.get("chunk") != config.chunk:
            raise InputError(f"{bank.path} has no clips in chunks of {config.chunk}; run recipes.remind.prepare.")
        if (told := info.get("captions", "process")) != config.world_captions:
            raise InputError(
                f"The captions of {bank.path} name the {told}; give --world-captions {told}, "
                f"or prepare a bank with --world-captions {config.world_captions} in another --out."
            )
        self.bank, self.config = bank, config
        there = set(bank.ids)
        self.records = {r.id: r for r in read_records(bank.path) if {r.id, twin_of(r.id)} <= there}
        if not self.records:
            raise InputError(f"The bank {bank.path} has no complete clip; run recipes.remind.prepare.")
        self.by_hidden: dict[tuple[int, int], list[str]] = defaultdict(list)
        for record in self.records.values():
            self.by_hidden[record.hidden].append(record.id)

    def load(self, ids: list[str]) -> tuple[Tensor, Cameras]:
        """Latents [B,C,F,H,W], fp32, and cameras [B,F]."""
        latents, cameras = stack_clips([self.bank.clip(id) for id in ids])
        assert cameras is not None  # `prepare` has stored them
        return latents, Cameras(cameras.c2w.float(), cameras.intrinsics.float())
