"""`ReadBest`: the frames that a score ranks highest, beside a sink and the newest: retrieval from a KV cache.

By pose (WorldKV), by the latents (LongLive-RAG), by the prompt (MemFlow), or by any other `Score`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memkit.checks import MOST_FRAMES, check_fields
from memkit.injectors.kv_cache.scores.base import Need, Score
from memkit.injectors.kv_cache.slots import SlotCache


@dataclass(frozen=True)
class ReadBest:
    """A read policy: of the cached frames before the chunk, the first ``sink`` of the video, the ``newest``, pinned
    ones, and of the others the ``frames`` with the highest score.

    Attributes:
        score: how much a frame is worth to the chunk; at equal scores, the newer frame is read.
        frames: number of frames that are retrieved.
        sink: frames at positions below this are read in any case.
        newest: so many of the other frames are read in any case.
        skip: so many of the frames that are next in age are not retrieved.
        unit: frames at positions n·unit to (n + 1)·unit − 1 are retrieved together, by their mean score; ``frames`` and
            ``skip`` still count frames.

    Raises:
        InputError: a number out of its range.
    """

    score: Score
    frames: int
    sink: int = 0
    newest: int = 3
    skip: int = 0
    unit: int = 1

    def __post_init__(self) -> None:
        most = dict.fromkeys(("frames", "sink", "newest", "skip"), (0, MOST_FRAMES))
        check_fields(self, unit=(1, MOST_FRAMES), **most)

    @property
    def needs(self) -> frozenset[Need]:
        """What the score needs to be told."""
        return self.score.needs

    def __call__(self, held: SlotCache, chunk: Sequence[int]) -> tuple[int, ...]:
        past = held.before(chunk)
        rest = [p for p in past if p >= self.sink]
        always = {*past[: len(past) - len(rest)], *rest[max(0, len(rest) - self.newest) :]}
        always |= {p for p in past if p in held.pinned}
        others = [p for p in rest if p not in always]
        others = others[: max(0, len(others) - self.skip)]
        units: dict[int, list[int]] = {}
        for p in others:
            units.setdefault(p // self.unit, []).append(p)
        if len(others) > self.frames:
            scores = dict(zip(others, self.score.checked(held, others, chunk), strict=True))
            ranked = sorted(units, key=lambda u: (sum(scores[p] for p in units[u]) / len(units[u]), u), reverse=True)
            chosen: list[int] = []
            for unit in ranked:
                if len(chosen) + len(units[unit]) > self.frames:
                    break
                chosen += units[unit]
            others = chosen
        return tuple(sorted({*always, *others}))
