"""Records of interrupted clips: which latent frames the interruption hides, and the captions of the chunks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from jaxtyping import Float, UInt8
from torch import Tensor

from memkit.cameras import Cameras
from memkit.errors import InputError
from memkit.files import atomic_write
from memkit.interruptions import Interruption, Occluder
from memkit.interruptions.timing import Spans
from recipes.remind.presets import STRIDE, Config

Frames = UInt8[Tensor, "frames height width 3"]
TWIN = "/twin"
RECORDS = "records.jsonl"
"""File of the records, in the folder of a bank."""
_TRIES = 200
_PHRASES = {
    "occluder": "while a {} hides the view",
    "lights-off": "while the light goes out and on again",
    "look-away": "while the camera looks away and back",
    "camera-loop": "while the camera turns away and back",
    "camera-off": "while the camera is off for a moment",
    "fog": "while fog thickens and clears",
}
Sample = TypeVar("Sample")


class Phases(NamedTuple):
    """An interruption in latent frames: the view is hidden in [start, stop) and fully visible again from ``clear`` on.

    In [stop, clear) the view comes back and already shows how the world has changed. These frames belong to the
    recovery: they are never conditioning frames where recovery is evaluated.
    """

    start: int
    stop: int
    clear: int

    @classmethod
    def of(cls, amount: Float[Tensor, " frames"]) -> Phases:
        """From how much of the view is hidden in each video frame; ``stop`` follows the last frame of the maximum."""
        start, clear = Spans.of(amount).latent().degraded
        return cls(start, int((amount >= amount.max()).nonzero().max()) // STRIDE + 1, clear)


class Record(NamedTuple):
    """What the bank of clips does not hold: the interruption of a clip, in latent frames (`Phases`), and captions."""

    id: str
    by: str
    hidden: tuple[int, int]
    """Latent frames [start, stop) in which the view is hidden."""
    clear: int
    """The first latent frame that is clean again."""
    captions: tuple[str, ...]
    """One caption per chunk of the interrupted clip."""
    twin_caption: str


class PosedFrames(NamedTuple):
    """Video frames with one camera per frame."""

    frames: Frames
    cameras: Cameras


class Clip(Protocol):
    """An interrupted clip and its uninterrupted twin, which `recipes.remind.prepare` encodes."""

    @property
    def id(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def record(self) -> Record: ...
    def videos(self) -> tuple[PosedFrames, PosedFrames]:
        """The interrupted clip and its twin."""
        ...


def twin_of(id: str) -> str:
    """The id of the uninterrupted twin."""
    return id + TWIN


def caption_of(caption: str, by: Interruption, touched: Sequence[int], span: Sequence[int]) -> str:
    """The caption of the chunk ``span``, which names the interruption where it is seen, in the frames ``touched``."""
    if not (touched[0] < span[1] and span[0] < touched[1]):
        return caption
    phrase = _PHRASES[by.NAME].format(by.look if isinstance(by, Occluder) else "")
    return f"{caption.rstrip('. ')} {phrase}"


def chunk_spans(config: Config) -> list[tuple[int, int]]:
    """The latent frames [start, stop) of each chunk."""
    starts = [0, *range(config.first, config.latents, config.chunk)]
    return list(zip(starts, [*starts[1:], config.latents], strict=True))


def frames_of(latents: tuple[int, int]) -> slice:
    """The video frames of latent frames [start, stop): latent frame 0 is frame 0, i > 0 is frames 4i − 3 to 4i."""
    return slice(max(0, STRIDE * (latents[0] - 1) + 1), STRIDE * (latents[1] - 1) + 1)


def sample_fitting(
    samplers: Sequence[Callable[[], Sample]], amount: Callable[[Sample], Tensor], config: Config, name: str
) -> Sample:
    """The first sample that fits into a clip; each sampler is tried many times, as some kinds never fit a short clip.

    It fits if the first and the last chunk are clean and the chunk in which the interruption begins, which is
    conditioning, ends hidden. Raises `InputError` if none fits.
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
    with atomic_write(bank / RECORDS) as partial:
        partial.write_text("".join(json.dumps(record._asdict(), ensure_ascii=False) + "\n" for record in records))


def read_records(bank: Path) -> list[Record]:
    """Read what `write_records` wrote. Raises `InputError` naming the line that is not a record."""
    file = bank / RECORDS
    if not file.exists():
        raise InputError(f"There is no {file}; run recipes.remind.prepare, which writes it once the bank is complete.")
    records = []
    for i, line in enumerate(file.read_text().splitlines(), 1):
        try:
            row = json.loads(line)
            start, stop = (int(x) for x in row.pop("hidden"))
            records.append(Record(**{**row, "captions": tuple(row["captions"])}, hidden=(start, stop)))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{file}, line {i} is not a record ({error!r}); run recipes.remind.prepare.") from error
    return records


def records_hash(bank: Path) -> str:
    """SHA-256 of the records file."""
    return hashlib.sha256((bank / RECORDS).read_bytes()).hexdigest()
