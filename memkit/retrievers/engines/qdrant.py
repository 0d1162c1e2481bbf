"""Search in Qdrant: a server, or its local mode for trying things out; exclusions as filters."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Float32, Int

from memkit.checks import check_whole
from memkit.errors import BankError, FileError, InputError, MemkitError
from memkit.retrievers.engines.protocol import SavedIndex
from memkit.retrievers.hits import Excluded
from memkit.retrievers.saved_index import about_of, saved
from memkit.retrievers.vectors import nearest

_MARK = "memkit-qdrant-1"
_BATCH = 512  # points of a request, which a server limits to 32 MB


@dataclass(frozen=True)
class Qdrant:
    """A collection whose points are the clips: number of the row, vector, and id and source as payload.

    Args:
        location: URL of a server, ":memory:", or a folder for the local mode, by default one in the bank. The local
            mode compares all vectors, holds them in memory, and lets one process at a time in; one engine shares its
            connection among the retrievers that it is given to.
        collection: name of the collection. One collection belongs to one bank and one embedding model.
        hnsw_ef: candidates that a server's HNSW graph keeps in a search; more is more exact and slower.
        api_key: of the server.
    """

    location: str | None = None
    collection: str = "memkit"
    hnsw_ef: int = 256
    api_key: str | None = field(default=None, repr=False)
    is_database: ClassVar[bool] = True
    _clients: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_whole("hnsw_ef", self.hnsw_ef, 1)

    def empty(self, folder: Path, dim: int) -> QdrantIndex:
        where, models = self._where(folder), _models()
        with _typed(where):
            client = self._connect(folder)
            if client.collection_exists(self.collection):
                if self._about(client) is None:
                    raise InputError(
                        f"{where} has a collection {self.collection!r} that memkit has not made; name another one."
                    )
                client.delete_collection(self.collection)
            client.create_collection(
                self.collection,
                vectors_config=models.VectorParams(size=dim, distance=models.Distance.DOT, on_disk=True),
                metadata={"mark": _MARK, "count": 0},
            )
            return QdrantIndex(self, client, dim, 0, where)

    def read(self, folder: Path) -> SavedIndex | None:
        where = self._where(folder)
        if self.location is None and not Path(where).exists():
            return None
        with _typed(where, FileError if self.location is None else BankError):
            client, models = self._connect(folder), _models()
            if not client.collection_exists(self.collection):
                return None
            about = self._about(client)
            if about is None or about["count"] == 0:
                return None
            count = client.count(self.collection, exact=True).count
            if count < about["count"]:
                raise InputError(f"The collection {self.collection!r} at {where} is incomplete; it is built anew.")
            if count > about["count"]:  # a build that was stopped has added them since the last save
                later = list(range(about["count"], count))
                client.delete(self.collection, points_selector=models.PointIdsList(points=later), wait=True)
            dim = client.get_collection(self.collection).config.params.vectors.size
            return saved(about, QdrantIndex(self, client, dim, about["count"], where), where)

    def write(self, folder: Path, index: SavedIndex) -> None:
        vectors = index.vectors
        assert isinstance(vectors, QdrantIndex)
        with _typed(vectors.where):
            metadata = {"mark": _MARK, "count": len(vectors), **about_of(index)}
            vectors.client.update_collection(self.collection, metadata=metadata)

    def close(self) -> None:
        """Close the connections; a folder of the local mode can then be opened by others."""
        while self._clients:
            self._clients.popitem()[1].close()

    def _where(self, folder: Path) -> str:
        return self.location or str(folder / "qdrant")

    def _connect(self, folder: Path) -> Any:
        where = self._where(folder)
        if where not in self._clients:
            client = import_qdrant().QdrantClient
            if "://" in where:
                self._clients[where] = client(url=where, api_key=self.api_key)
            else:
                self._clients[where] = client(where) if where == ":memory:" else client(path=where)
        return self._clients[where]

    def _about(self, client: Any) -> dict[str, Any] | None:
        about = client.get_collection(self.collection).config.metadata
        return about if isinstance(about, dict) and about.get("mark") == _MARK else None


class QdrantIndex:
    """Points of a Qdrant collection."""

    def __init__(self, engine: Qdrant, client: Any, dim: int, count: int, where: str) -> None:
        self.engine, self.client, self.where = engine, client, where
        self._dim, self._count = dim, count

    def __len__(self) -> int:
        return self._count

    @property
    def dim(self) -> int:
        return self._dim

    def add(self, vectors: Float32[np.ndarray, "rows dim"], ids: Sequence[str], sources: Sequence[str | None]) -> None:
        """Add points to the collection; they count once `Qdrant.write` has stated them."""
        models = _models()
        for start in range(0, len(vectors), _BATCH):
            part = slice(start, start + _BATCH)
            names = [{"id": id, "source": source} for id, source in zip(ids[part], sources[part], strict=True)]
            numbers = list(range(self._count, self._count + len(names)))
            with _typed(self.where):
                batch = models.Batch(ids=numbers, vectors=vectors[part].tolist(), payloads=names)
                self.client.upsert(self.engine.collection, points=batch, wait=True)
            self._count += len(names)

    def rows(self, rows: Int[np.ndarray, " rows"]) -> Float32[np.ndarray, "rows dim"]:
        """The vectors of some rows."""
        with _typed(self.where):
            wanted = sorted(set(rows.tolist()))
            points = self.client.retrieve(self.engine.collection, wanted, with_payload=False, with_vectors=True)
            vector_of = {point.id: point.vector for point in points}
            found = np.array([vector_of[row] for row in rows.tolist()], np.float32)
            return found.reshape(len(rows), self._dim)

    def search(
        self, query: Float32[np.ndarray, " dim"], k: int, excluded: Excluded
    ) -> tuple[Int[np.ndarray, " hits"], Float[np.ndarray, " hits"]]:
        """Rows and cosines of the ``k`` nearest vectors that the filter allows, best first, equal ones in row order."""
        without = [_any_of("id", excluded.ids), _any_of("source", excluded.sources)]
        only = _models().Filter(must_not=[condition for condition in without if condition is not None])

        def propose(ask: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            found = self._ask(query, ask, only, exhaustive=False)
            if len(found) < ask:
                found = self._ask(query, ask, only, exhaustive=True)
            if len(found) < ask:
                raise FileError(f"{self.where} has lost rows of the bank; delete the index, and it is built anew.")
            rows, scores = np.array([point.id for point in found]), np.array([point.score for point in found])
            return rows, scores, np.array([point.vector for point in found], np.float32)

        with _typed(self.where):
            return nearest(query, k, int(excluded.allowed.sum()), propose)

    def _ask(self, query: np.ndarray, count: int, only: Any, exhaustive: bool) -> list[Any]:
        served = "://" in self.where  # the local mode always compares all vectors
        return self.client.query_points(
            self.engine.collection,
            query=query.tolist(),
            limit=count,
            query_filter=only,
            search_params=_models().SearchParams(hnsw_ef=self.engine.hnsw_ef, exact=exhaustive) if served else None,
            with_payload=False,
            with_vectors=True,
        ).points


def import_qdrant() -> Any:
    """The qdrant_client module, imported lazily because it is large and optional."""
    try:
        return importlib.import_module("qdrant_client")
    except ImportError:
        raise MemkitError("This index is kept by Qdrant; install its client: pip install memkit[qdrant]") from None


def _models() -> Any:
    return import_qdrant().models


def _any_of(key: str, values: Collection[str]) -> Any:
    if not values:
        return None
    return _models().FieldCondition(key=key, match=_models().MatchAny(any=sorted(values)))


@contextmanager
def _typed(where: str, kind: type[MemkitError] = FileError) -> Iterator[None]:
    """Inside, what Qdrant raises for a damaged folder or an absent server becomes a typed error with the place."""
    try:
        yield
    except MemkitError:
        raise
    except Exception as error:
        why = " ".join(str(error).split())[:300]
        raise kind(
            f"Qdrant cannot use {where} ({type(error).__name__}: {why}); check the server or the folder, which one "
            "process at a time can open; to build the index anew, delete it."
        ) from error
