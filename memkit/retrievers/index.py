"""The vector index that a bank keeps of its clips."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32
from torch import Tensor

from memkit.errors import BankError
from memkit.files.atomic import atomic_write
from memkit.retrievers.hits import ClipTable
from memkit.retrievers.vectors import VectorIndex, are_unit, read_flat_ip

log = logging.getLogger(__name__)

FORMAT = "memkit-index-1"
SAVE_EVERY_SECONDS = 60.0  # so that an interrupted build can be resumed
SAME_VECTOR = (
    1e-4  # cosine distance: far above the differences between devices, far below those between models or pooling
)


@runtime_checkable
class ClipBank(Protocol):
    """What a retriever needs of a bank, such as `memkit.MemoryBank`. Lists are aligned, ids unique."""

    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def captions(self) -> Sequence[str]: ...
    @property
    def sources(self) -> Sequence[str | None]: ...
    @property
    def path(self) -> Path: ...
    @property
    def fingerprint(self) -> str: ...
    def __len__(self) -> int: ...
    def clip(self, id: str) -> Any: ...


class BankIndex:
    """The vectors of a bank's clips, in step with the bank and saved in ``<bank>/index/<name>/``.

    ``contents(bank)`` returns what to embed of each clip, None for a clip to leave out; ``embed`` maps distinct
    contents to unit vectors ``[n, dim]``, ``chunk`` at a time. Equal contents share one vector, so that they tie
    exactly. The index on disk is used if settings and contents agree and the first clip, embedded again, gives the
    stored vector; only clips added since are embedded. A stale or damaged index is rebuilt, and if the folder cannot be
    written, the index stays in memory; both are logged as warnings.

    ``tied_to_bank`` is for vectors of data that ``contents`` does not show, such as pixels: an index of a bank with as
    many clips but another fingerprint is then stale too.
    """

    def __init__(
        self,
        bank: ClipBank,
        name: str,
        settings: dict[str, Any],
        dim: int,
        contents: Callable[[ClipBank], list[str | None]],
        embed: Callable[[list[str]], Float32[Tensor, "texts dim"]],
        chunk: int,
        tied_to_bank: bool = False,
    ) -> None:
        self.bank = bank
        self.folder = Path(bank.path) / "index" / re.sub(r"[^\w.-]+", "-", name)
        self.settings = settings | {"dim": dim}
        self.table = ClipTable([], [])
        self.vectors = VectorIndex.empty(dim)
        self._contents, self._embed, self._chunk, self._tied = contents, embed, chunk, tied_to_bank
        self._seen: int | None = None  # clips of the bank at the last refresh
        self._writable = True
        self.refresh()

    def refresh(self) -> None:
        """Add clips that were added to the bank since the last call."""
        if len(self.bank) == self._seen:
            return
        seen, bank_ids, bank_sources = len(self.bank), self.bank.ids, self.bank.sources
        kept = [(i, c) for i, c in enumerate(self._contents(self.bank)) if c is not None]
        ids = [bank_ids[i] for i, _ in kept]
        contents = [c for _, c in kept]
        if self._seen is None:
            self.vectors = self._load(ids, contents) or self.vectors
        elif self.table.ids != ids[: len(self.table)]:  # a bank removes a clip that it could not write
            self.vectors = VectorIndex.empty(self.vectors.dim)
        self._extend(ids, contents)
        self.table = ClipTable(ids, [bank_sources[i] for i, _ in kept])
        self._seen = seen

    def _extend(self, ids: list[str], contents: list[str]) -> None:
        """Embed the missing rows and save: at the end, and every minute meanwhile."""
        if len(self.vectors) == len(ids):
            return
        row_of: dict[str, int] = {}
        for row, content in enumerate(contents[: len(self.vectors)]):
            row_of.setdefault(content, row)
        saved = time.monotonic()
        for start in range(len(self.vectors), len(ids), self._chunk):
            part = contents[start : start + self._chunk]
            fresh = [content for content in dict.fromkeys(part) if content not in row_of]
            new = dict(zip(fresh, self._embed(fresh).numpy() if fresh else (), strict=True))
            block = np.stack([new[c] if c in new else self.vectors.rows(np.array([row_of[c]]))[0] for c in part])
            for id, good in zip(ids[start:], are_unit(block).tolist(), strict=False):
                if not good:
                    raise BankError(
                        f"The model gives no usable vector (NaN or 0) for clip {id!r}; check the clip and the model."
                    )
            self.vectors.add(block)
            for row, content in enumerate(part, start):
                row_of.setdefault(content, row)
            if len(self.vectors) == len(ids) or time.monotonic() - saved > SAVE_EVERY_SECONDS:
                self._save(ids, contents)
                saved = time.monotonic()

    def _load(self, ids: list[str], contents: list[str]) -> VectorIndex | None:
        """The saved vectors of the first rows; None, with a warning that says why, if they cannot be used."""
        if not (self.folder / "index.json").exists():
            return None
        try:
            about = json.loads((self.folder / "index.json").read_text(encoding="utf-8"))
            vectors = read_flat_ip(self.folder / "vectors.faiss")
            complaint = self._complaint(about, vectors, ids, contents)
        except (OSError, ValueError, KeyError, TypeError) as error:
            complaint, vectors = f"it is damaged ({error})", None
        if complaint:
            log.warning("The index %s is rebuilt: %s.", self.folder, complaint)
            return None
        return vectors

    def _complaint(self, about: Any, vectors: VectorIndex, ids: list[str], contents: list[str]) -> str | None:
        """Why saved vectors cannot be used; ``about`` is whatever ``index.json`` holds."""
        count = len(about["ids"])
        if about["format"] != FORMAT or about["settings"] != self.settings:
            return f"it was made with {about['settings']}, not with {self.settings}"
        if len(vectors) != count or _file_digest(self.folder / "vectors.faiss") != about["vectors"]:
            return "it is damaged (vectors.faiss is not the file that index.json describes)"
        if about["ids"] != ids[:count] or about["contents"] != _digest(ids[:count], contents):
            return "the bank's clips have changed"
        if self._tied and count == len(ids) and about["fingerprint"] != self.bank.fingerprint:
            return "the bank's content has changed"
        if count and vectors.rows(np.zeros(1, np.int64))[0] @ self._embed(contents[:1]).numpy()[0] < 1 - SAME_VECTOR:
            return "the first clip's vector differs from the stored one, so the model has changed"
        return None

    def _save(self, ids: list[str], contents: list[str]) -> None:
        if not self._writable:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            vectors = _write(self.folder / "vectors.faiss", self.vectors.write)
            count = len(self.vectors)
            about = {
                "format": FORMAT,
                "settings": self.settings,
                "fingerprint": self.bank.fingerprint,
                "vectors": vectors,
                "contents": _digest(ids[:count], contents),
                "ids": ids[:count],
            }
            _write(self.folder / "index.json", lambda p: Path(p).write_text(json.dumps(about), encoding="utf-8"))
        except (OSError, RuntimeError) as error:  # FAISS raises RuntimeError when it cannot write
            self._writable = False
            log.warning("The index stays in memory: %s cannot be written (%s).", self.folder, error)


def _digest(ids: list[str], contents: list[str]) -> str:
    """Digest of the pairs of id and content; contents beyond the ids are ignored."""
    digest = hashlib.sha256()
    for pair in zip(ids, contents, strict=False):
        digest.update(json.dumps(pair).encode() + b"\n")
    return digest.hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, write: Callable[[str], object]) -> str:
    """Write a file as a whole or not at all; return its digest."""
    with atomic_write(path) as partial:
        write(str(partial))
        return _file_digest(partial)
