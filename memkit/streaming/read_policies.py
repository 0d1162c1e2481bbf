"""Which cached frames a streamed chunk reads: functions (cached frames, the chunk's positions) -> positions.

Each selects only frames before the chunk, so that a chunk generated again reads the same frames. Any function of this
form is a policy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from memkit.checks import MOST, check_list, check_whole
from memkit.injectors.kv_cache.slots import SlotCache

Read = Callable[[SlotCache, Sequence[int]], Sequence[int]]
"""Positions to read, all in the cache, from a branch of the cache and the positions of the chunk."""


def read_everything(held: SlotCache, chunk: Sequence[int]) -> tuple[int, ...]:
    """Every cached frame before the chunk."""
    return held.before(chunk)


def read_window(frames: int) -> Read:
    """The newest ``frames`` frames and all pinned ones (Self-Forcing's rolling window with sinks).

    Raises `InputError` for less than no frames.
    """
    check_whole("The window", frames, unit="frames")
    return lambda held, chunk: held.window(frames, before=min(chunk))


def read_local(window: int, sink: int = 0) -> Read:
    """The first ``sink`` frames of the video, and so many of the newest that they and the chunk are ``window`` frames
    (Self-Forcing's ``local_attn_size``, LongLive's ``sink_size``). Pinned frames are read in addition.

    Raises `InputError` for less than no frames.
    """
    check_whole("window", window)
    check_whole("sink", sink)

    def read(held: SlotCache, chunk: Sequence[int]) -> tuple[int, ...]:
        past = read_everything(held, chunk)
        first = [p for p in past if p < sink]
        rest = [p for p in past if p >= sink]
        newest = rest[max(0, len(rest) - max(0, window - len(first) - len(chunk))) :]
        return tuple(sorted({*first, *newest, *(p for p in past if p in held.pinned)}))

    return read


def read_packed(first: int = 1, anchors: Sequence[int] = (), previous: int = 3) -> Read:
    """{first frames} ∪ {anchors} ∪ {previous chunk}, and pinned frames: ReMind's cache adaptation (arXiv 2605.25333).

    Each frame keeps the position it was written at. Anchors that the stream has not reached yet are left out; an anchor
    that was evicted raises `InputError` from the chunk, so pin it when it is generated.

    Raises `InputError` for less than no frames, and for anchors that are no positions.
    """
    check_whole("first", first)
    check_whole("previous", previous)
    for anchor in check_list("anchors", anchors, "positions"):
        check_whole("An anchor", anchor, -MOST)

    def read(held: SlotCache, chunk: Sequence[int]) -> tuple[int, ...]:
        past = read_everything(held, chunk)
        reached = {p for p in anchors if p < min(chunk)}
        return tuple(sorted({*past[:first], *reached, *held.window(previous, before=min(chunk))}))

    return read
