"""What is known of an interrupted clip besides its pixels: when it is hidden, and what is said of it."""

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
"""In the folder of a bank."""
_TRIES = 200
_WORDS = {
    "occluder": "while a {} hides the view",
    "lights-off": "while the light goes out and on again",
    "look-away": "while the camera looks away and back",
    "camera-loop": "while the camera turns away and back",
    "camera-off": "while the camera is off for a moment",
    "fog": "while fog thickens and clears",
}
Drawn = TypeVar("Drawn")


class Phases(NamedTuple):
    """An interruption in latent frames: hidden from ``start`` to before ``stop``, wholly gone from ``clear`` on.

    Between ``stop`` and ``clear`` the view comes back: there a frame shows how the world has gone on, so it belongs to
    what recovers and is never given where that is tested.
    """

    start: int
    stop: int
    clear: int

    @classmethod
    def of(cls, amount: Float[Tensor, " frames"]) -> Phases:
        """From how much of the view is hidden in each video frame; the hold ends with the last frame of the most."""
        start, clear = Spans.of(amount).latent().degraded
        return cls(start, int((amount >= amount.max()).nonzero().max()) // STRIDE + 1, clear)


class Record(NamedTuple):
    """What training and evaluation know of a clip besides its latents; see `Phases` for ``hidden``."""

    id: str
    by: str
    hidden: tuple[int, int]
    """Latent frames [start, stop) that show no truth."""
    clear: int
    """The first latent frame that is clean again."""
    captions: tuple[str, ...]
    """One a chunk of the interrupted clip."""
    twin_caption: str


class Shown(NamedTuple):
    """Frames, and the camera of each."""

    frames: Frames
    cameras: Cameras


class Clip(Protocol):
    """What `prepare` encodes."""

    @property
    def id(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def record(self) -> Record: ...
    def both(self) -> tuple[Shown, Shown]:
        """The interrupted clip and its twin."""
        ...


def twin_of(id: str) -> str:
    """The id of the uninterrupted clip."""
    return id + TWIN


def told(caption: str, by: Interruption, touched: Sequence[int], span: Sequence[int]) -> str:
    """The caption of a chunk: what interrupts it is told where it is seen."""
    if not (touched[0] < span[1] and span[0] < touched[1]):
        return caption
    words = _WORDS[by.NAME].format(by.look if isinstance(by, Occluder) else "")
    return f"{caption.rstrip('. ')} {words}"


def chunk_spans(config: Config) -> list[tuple[int, int]]:
    """The latent frames [start, stop) of each chunk."""
    starts = [0, *range(config.first, config.latents, config.chunk)]
    return list(zip(starts, [*starts[1:], config.latents], strict=True))


def frames_of(latents: tuple[int, int]) -> slice:
    """The video frames of latent frames [start, stop): latent frame 0 is frame 0, i is frames 4i − 3 to 4i."""
    return slice(max(0, STRIDE * (latents[0] - 1) + 1), STRIDE * (latents[1] - 1) + 1)


def until_fit(
    draws: Sequence[Callable[[], Drawn]], amount: Callable[[Drawn], Tensor], config: Config, name: str
) -> Drawn:
    """What the first of ``draws`` gives that fits, each tried many times: some kinds never do in a short clip.

    It fits where the first and the last chunk are clean, and the chunk in which it begins ends hidden: that chunk is
    given, and must not tell what comes after. Raises `InputError` where none does.
    """
    chunks = chunk_spans(config)
    for draw in draws:
        for _ in range(_TRIES):
            drawn = draw()
            start, stop, clear = Phases.of(amount(drawn))
            ends = next((b for a, b in chunks if a <= start < b), config.latents)
            if start >= chunks[0][1] and clear <= chunks[-1][0] and ends <= stop:
                return drawn
    raise InputError(f"{name}: no interruption fits into a clip of {len(chunks)} chunks; give more --frames.")


def write_records(bank: Path, records: Sequence[Record]) -> None:
    """Beside the bank's latents; the file is whole or as it was."""
    with atomic_write(bank / RECORDS) as partial:
        partial.write_text("".join(json.dumps(record._asdict(), ensure_ascii=False) + "\n" for record in records))


def read_records(bank: Path) -> list[Record]:
    """What `write_records` wrote. Raises `InputError` naming the line for anything else."""
    file = bank / RECORDS
    if not file.exists():
        raise InputError(f"There is no {file}; run recipes.remind.prepare, which writes it when the bank is full.")
    records = []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        try:
            row = json.loads(line)
            start, stop = (int(x) for x in row.pop("hidden"))
            records.append(Record(**{**row, "captions": tuple(row["captions"])}, hidden=(start, stop)))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{file}, line {number} is no record ({error!r}); run recipes.remind.prepare.") from error
    return records


def records_hash(bank: Path) -> str:
    """SHA-256 of the records."""
    return hashlib.sha256((bank / RECORDS).read_bytes()).hexdigest()
