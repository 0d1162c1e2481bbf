"""Find the files of the clips that a DiT-Mem release names: ``.pt`` latents or mp4s, in one folder or below it."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from memkit.errors import InputError

LATENTS, VIDEO = ".pt", ".mp4"


def find_released_clips(names: Iterable[str], folder: str | os.PathLike[str]) -> dict[str, Path]:
    """The file of each name of an id map, in ``folder`` or below: its latents or, if there are none, its video.

    For ``drop.mp4`` that is ``drop.pt`` or ``drop.mp4.pt``, else ``drop.mp4``; names may lack the suffix. Folders in a
    name are matched if the files have them too (``x/drop.mp4`` is ``x/drop.pt``); otherwise ``drop.pt`` may be
    anywhere, provided that it is the only one and no other name ends in ``drop``.

    Raises `InputError` that lists the names without a file and those with more than one.
    """
    found, problems = match_released_clips(names, folder)
    if problems:
        lines = [f"{name}: {reason}" for name, reason in problems.items()]
        more = [f"and {len(lines) - 50} more"] if len(lines) > 50 else []
        raise InputError(f"{folder} lacks clips that are named ({len(lines)}):\n  " + "\n  ".join(lines[:50] + more))
    return found


def match_released_clips(
    names: Iterable[str], folder: str | os.PathLike[str]
) -> tuple[dict[str, Path], dict[str, str]]:
    """As `find_released_clips`, but problems are returned: a file per usable name, and a reason per other name."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}; give the folder of the released latents or videos.")
    files: dict[str, list[tuple[str, Path]]] = defaultdict(list)
    for relative in _files(folder):
        files[stem(relative)].append((_bare(relative), folder / relative))
    names = list(dict.fromkeys(names))
    shared = Counter(map(stem, names))
    found: dict[str, Path] = {}
    problems: dict[str, str] = {}
    for name in names:
        candidates = files.get(stem(name), [])
        file = _choose(_bare(name), candidates, alone=shared[stem(name)] == 1)
        if file is not None:
            found[name] = file
        elif candidates:
            listed = ", ".join(str(path.relative_to(folder)) for _, path in candidates[:4])
            problems[name] = f"it is not clear whether it is {listed}; leave one file, or name its folder in the id map"
        else:
            problems[name] = f"there is neither {stem(name)}{LATENTS} nor {stem(name)}{VIDEO} in {folder}"
    return found, problems


def stem(name: str) -> str:
    """A name without folder, ``.pt`` and ``.mp4``, which it shares with the files of its clip."""
    return PurePosixPath(_bare(name)).name


def is_latents(file: Path) -> bool:
    """Whether a file holds latents; otherwise it is a video."""
    return file.suffix.lower() == LATENTS


def _choose(name: str, candidates: list[tuple[str, Path]], alone: bool) -> Path | None:
    """Latents before videos; the same path before another file of that stem, which needs a name that is ``alone``."""
    for latents in (True, False):
        kind = [(bare, path) for bare, path in candidates if is_latents(path) == latents]
        fitting = [path for bare, path in kind if bare == name] or [path for _, path in kind if alone]
        if fitting:
            return fitting[0] if len(fitting) == 1 else None
    return None


def _bare(name: str) -> str:
    """A path without the two suffixes, ``./`` and backslashes."""
    path = PurePosixPath(name.replace("\\", "/")).as_posix()
    for suffix in (LATENTS, VIDEO):
        if path.lower().endswith(suffix):
            path = path[: -len(suffix)]
    return path


def _files(folder: Path) -> Iterator[str]:
    """Relative paths of the latents and videos below a folder, in order; folders that are links are followed once."""
    seen: set[str] = set()
    for at, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(at)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for name in sorted(names):
            if name.lower().endswith((LATENTS, VIDEO)):
                yield Path(at, name).relative_to(folder).as_posix()
