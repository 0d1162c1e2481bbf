"""What retrievers of past frames share: a query is a camera, and a clip is a frame with a name and a source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from torch import Tensor

from memkit.cameras.cameras import Cameras
from memkit.cameras.checks import check_cameras
from memkit.checks import shown
from memkit.display import counted, described
from memkit.errors import InputError
from memkit.retrievers.hits import ClipTable, Retriever

Query = TypeVar("Query")


class FrameRetriever(Retriever[Query]):
    """Finds past frames for a camera; a subclass keeps their names in ``_clips``, and ranks them."""

    _clips: ClipTable

    def __repr__(self) -> str:
        return described(self, counted(len(self._clips), "frame"))

    def _table(self) -> ClipTable:
        return self._clips

    def _check(self, query: Any, name: str) -> None:
        check_retrieved(query, name, 0)


def frame_names(
    ids: Sequence[str] | None, sources: Sequence[str | None] | None, count: int
) -> tuple[list[str], list[str | None]]:
    """Unique names of so many frames, by default their numbers, and their sources. Raises `InputError` for others."""
    if isinstance(ids, str) or isinstance(sources, str):
        raise InputError("ids or sources are one string; give a list with one per camera.")
    names = [str(i) for i in range(count)] if ids is None else list(ids)
    films: list[str | None] = [None] * count if sources is None else list(sources)
    if len(names) != count or len(films) != count:
        raise InputError(f"{count} cameras, {len(names)} ids and {len(films)} sources; give one per camera.")
    seen: set[str] = set()
    for name in names:
        if not isinstance(name, str) or name in seen:
            raise InputError(f"ids: {shown(name)} occurs twice or is not a string; give each frame a unique name.")
        seen.add(name)
    return names, films


def more_names(
    before: tuple[list[str], list[str | None]],
    ids: Sequence[str] | None,
    sources: Sequence[str | None] | None,
    count: int,
) -> tuple[list[str], list[str | None]]:
    """`frame_names` with those of frames that are added; by default, numbers go on."""
    start = len(before[0])
    added = frame_names([str(start + i) for i in range(count)] if ids is None else ids, sources, count)
    return frame_names([*before[0], *added[0]], [*before[1], *added[1]], start + count)


def check_retrieved(cameras: Cameras, name: str, dims: int) -> None:
    """Raises `InputError` unless cameras have ``dims`` leading dimensions and are plausible, see `check_cameras`."""
    if not isinstance(cameras, Cameras) or not all(isinstance(x, Tensor) for x in (cameras.c2w, cameras.intrinsics)):
        raise InputError(f"{name}: {shown(cameras)} is no camera; give Cameras(c2w, intrinsics).")
    c2w, intrinsics = cameras.c2w, cameras.intrinsics
    if c2w.ndim != dims + 2 or intrinsics.shape != (*c2w.shape[:dims], 4) or c2w.shape[dims:] != (4, 4):
        wanted = "one pose per frame, [N, 4, 4] and [N, 4]" if dims else "one camera, [4, 4] and [4], or a list of such"
        raise InputError(f"{name}: c2w {tuple(c2w.shape)} and intrinsics {tuple(intrinsics.shape)}; give {wanted}.")
    check_cameras(cameras, name)
