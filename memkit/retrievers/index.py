"""The vector index that a bank keeps of its clips."""

from __future__ import annotations

import hashlib
import itertools
import logging
import re
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from filelock import FileLock
from jaxtyping import Float32
from torch import Tensor

from memkit.errors import BankError, InputError
from memkit.files.atomic import writing
from memkit.retrievers.engines.choice import choose
from memkit.retrievers.engines.protocol import Engine, SavedIndex, VectorIndex
from memkit.retrievers.hits import ClipTable
from memkit.retrievers.saved_index import read_saved
from memkit.retrievers.vectors import FlatVectors, are_unit

log = logging.getLogger(__name__)

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
    """The vectors of a bank's clips, in step with the bank and saved in ``<bank>/index/<name>/`` by an engine.

    ``contents(bank)`` returns what to embed of each clip, None for a clip to leave out; ``embed`` maps distinct
    contents to unit vectors ``[n, dim]``, ``chunk`` at a time. Equal contents share one vector, so that they tie
    exactly. The index on disk is used if settings and contents agree and the first clip, embedded again, gives the
    stored vector; only clips added since are embedded. A stale or damaged index is rebuilt, and if the folder cannot be
    written, the index stays in memory; both are logged as warnings.

    ``engine`` is chosen by `choose` if None. Where it has saved nothing yet, vectors that `Exact` has saved are taken
    over, so that another engine does not need to embed again.

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
        engine: Engine | None = None,
    ) -> None:
        self.bank = bank
        self.folder = Path(bank.path) / "index" / re.sub(r"[^\w.-]+", "-", name)
        self.settings = settings | {"dim": dim}
        self.table = ClipTable([], [])
        self.vectors: VectorIndex = FlatVectors.empty(dim)  # until the first refresh, below
        self._engine, self._dim = engine, dim
        self._contents, self._embed, self._chunk, self._tied = contents, embed, chunk, tied_to_bank
        self._seen: int | None = None  # clips of the bank at the last refresh
        self._writable = True
        self.refresh()

    def refresh(self) -> None:
        """Add clips that were added to the bank since the last call."""
        if len(self.bank) == self._seen:
            return
        seen, ids, sources = len(self.bank), self.bank.ids, self.bank.sources
        kept = [
            (ids[i], content, sources[i]) for i, content in enumerate(self._contents(self.bank)) if content is not None
        ]
        clips = _Clips(*map(list, zip(*kept, strict=True))) if kept else _Clips([], [], [])
        self._engine = self._engine or choose(self.folder, len(kept), self._dim)
        with self._turn(self._engine):
            # another process may have added clips to a database meanwhile
            if self._seen is None or self._engine.is_database:
                self.vectors = self._load(self._engine, clips) or self._taken_over(self._engine, clips)
            elif self.table.ids != clips.ids[: len(self.table)]:  # a bank removes a clip that it could not write
                self.vectors = self._engine.empty(self.folder, self._dim)
            self._extend(self._engine, clips)
        self.table = ClipTable(clips.ids, clips.sources)
        self._seen = seen

    def _turn(self, engine: Engine) -> AbstractContextManager[Any]:
        """Processes bring one database up to date in turn; the files of other engines replace each other."""
        if not engine.is_database:
            return nullcontext()
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / ".lock")

    def _extend(self, engine: Engine, clips: _Clips) -> None:
        """Embed the missing rows and save: at the end, and every minute meanwhile."""
        if len(self.vectors) == len(clips.ids):
            return
        row_of: dict[str, int] = {}
        for row, content in enumerate(clips.contents[: len(self.vectors)]):
            row_of.setdefault(content, row)
        saved = time.monotonic()
        for start in range(len(self.vectors), len(clips.ids), self._chunk):
            part = clips.rows(start, start + self._chunk)
            self.vectors.add(self._block(part, row_of), part.ids, part.sources)
            for row, content in enumerate(part.contents, start):
                row_of.setdefault(content, row)
            if len(self.vectors) == len(clips.ids) or time.monotonic() - saved > SAVE_EVERY_SECONDS:
                self._save(engine, clips)
                saved = time.monotonic()

    def _block(self, clips: _Clips, row_of: dict[str, int]) -> Float32[np.ndarray, "clips dim"]:
        """The vectors of clips, of which those with a content of an earlier row have that row's."""
        contents = list(dict.fromkeys(clips.contents))
        fresh, known = [c for c in contents if c not in row_of], [c for c in contents if c in row_of]
        vector_of = dict(zip(fresh, self._embed(fresh).numpy() if fresh else (), strict=True))
        if known:
            rows = np.array([row_of[content] for content in known], np.int64)
            vector_of |= zip(known, self.vectors.rows(rows), strict=True)
        block = np.stack([vector_of[content] for content in clips.contents])
        for id, good in zip(clips.ids, are_unit(block).tolist(), strict=True):
            if not good:
                raise BankError(
                    f"The model gives no usable vector (NaN or 0) for clip {id!r}; check the clip and the model."
                )
        return block

    def _load(self, engine: Engine, clips: _Clips) -> VectorIndex | None:
        """The saved vectors of the first rows; None, with a warning that says why, if they cannot be used."""
        return self._usable(engine.read, clips, engine.is_database)

    def _taken_over(self, engine: Engine, clips: _Clips) -> VectorIndex:
        """A new index: empty, or in a database with the rows that another engine has saved as one file."""
        vectors = engine.empty(self.folder, self._dim)
        if engine.is_database and (found := self._usable(read_saved, clips, False)):
            for start in range(0, len(found), self._chunk):
                rows = np.arange(start, min(start + self._chunk, len(found)))
                part = clips.rows(start, start + len(rows))
                vectors.add(found.rows(rows), part.ids, part.sources)
            self.vectors = vectors
            self._save(engine, clips)
        return vectors

    def _usable(
        self, read: Callable[[Path], SavedIndex | None], clips: _Clips, with_sources: bool
    ) -> VectorIndex | None:
        try:
            found = read(self.folder)
        except InputError as error:
            complaint, found = str(error), None
        else:
            complaint = self._complaint(found, clips, with_sources) if found else None
        if complaint:
            log.warning("The index %s is rebuilt: %s.", self.folder, complaint.removesuffix("."))
            return None
        return found.vectors if found else None

    def _complaint(self, saved: SavedIndex, clips: _Clips, with_sources: bool) -> str | None:
        """Why saved vectors cannot be used."""
        count, total = len(saved.vectors), len(clips.ids)
        if saved.settings != self.settings or saved.vectors.dim != self._dim:
            return f"it was made with {saved.settings}, not with {self.settings}"
        if count > total or saved.contents != clips.digest(count, with_sources):
            return "the bank's clips have changed"
        if self._tied and count == total and saved.fingerprint != self.bank.fingerprint:
            return "the bank's content has changed"
        first = saved.vectors.rows(np.zeros(min(count, 1), np.int64))
        if count and first[0] @ self._embed(clips.contents[:1]).numpy()[0] < 1 - SAME_VECTOR:
            return "the first clip's vector differs from the stored one, so the model has changed"
        return None

    def _save(self, engine: Engine, clips: _Clips) -> None:
        if not self._writable:
            return
        digest = clips.digest(len(self.vectors), engine.is_database)
        try:
            engine.write(self.folder, SavedIndex(self.settings, self.bank.fingerprint, digest, self.vectors))
        except OSError as error:
            if engine.is_database:
                raise
            self._writable = False
            log.warning("The index stays in memory: %s cannot be written (%s).", self.folder, error)


class _Clips(NamedTuple):
    """What the rows of an index are made of."""

    ids: list[str]
    contents: list[str]
    sources: list[str | None]

    def rows(self, start: int, end: int) -> _Clips:
        return _Clips(self.ids[start:end], self.contents[start:end], self.sources[start:end])

    def digest(self, count: int, with_sources: bool) -> str:
        """Of the first rows; without sources for files, whose rows do not depend on them."""
        digest = hashlib.sha256()
        for row in itertools.islice(zip(*(self if with_sources else self[:2]), strict=True), count):
            texts = ("null" if value is None else encode_basestring_ascii(value) for value in row)
            digest.update(f"[{', '.join(texts)}]\n".encode())  # as json.dumps, at a third of its time
        return digest.hexdigest()
