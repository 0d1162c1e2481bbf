"""Search in LanceDB: vectors and their index in a folder or in object storage, exclusions as SQL filters."""

from __future__ import annotations

import importlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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

_MARK = "memkit-lancedb-1"
_STALE = 0.2  # share of rows that the disk index may lack before it is updated; they are searched one by one


@dataclass(frozen=True)
class LanceDB:
    """A table with the columns row, id, source and vector, which other programs can query too.

    From ``index_from`` rows on, the table has a disk index: inverted lists of 4-bit codes (IVF with RaBitQ, arXiv
    2405.12497). A query looks into ``nprobes`` lists and compares ``refine`` times as many vectors as it needs with
    their full precision; 0 probes all lists, for vectors that form no clusters. Smaller tables are searched exactly.

    Args:
        uri: a folder or a URI that LanceDB knows, such as ``s3://bucket/path``; by default a folder in the bank.
        table: name of the table at ``uri``. One table belongs to one bank and one embedding model.
        storage_options: passed to LanceDB, such as credentials.
    """

    uri: str | None = None
    table: str = "vectors"
    nprobes: int = 32
    refine: int = 10
    index_from: int = 50_000
    storage_options: Mapping[str, str] | None = None
    is_database: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_whole("nprobes", self.nprobes)
        check_whole("refine", self.refine, 1)
        check_whole("index_from", self.index_from, 256)

    def empty(self, folder: Path, dim: int) -> LanceIndex:
        where = self._where(folder)
        with _typed(where):
            database = self._connect(folder)
            names = set(_names(database))
            if self.table in names and self._about not in names:
                raise InputError(
                    f"{where} has a table {self.table!r} that memkit has not made; name another table or place."
                )
            for name in names & {self.table, self._about}:
                database.drop_table(name)
            self._state(database, {"count": 0}, "create")  # first, so that the table is known as memkit's
            return LanceIndex(self, database.create_table(self.table, schema=_schema(dim)), dim, where)

    def read(self, folder: Path) -> SavedIndex | None:
        where = self._where(folder)
        if self.uri is None and not Path(where).exists():
            return None
        with _typed(where, FileError if self.uri is None else BankError):
            database = self._connect(folder)
            names = set(_names(database))
            if self._about not in names:
                return None
            about = json.loads(database.open_table(self._about).to_arrow()["about"][0].as_py())
            if about.get("mark") != _MARK or self.table not in names:
                raise InputError(f"{where} has no table {self.table!r} of memkit's; it is built anew.")
            if about["count"] == 0:
                return None
            table = database.open_table(self.table)
            field = table.schema.field("vector")
            if table.schema != _schema(field.type.list_size) or table.count_rows() < about["count"]:
                raise InputError(f"The table {self.table!r} at {where} is incomplete; it is built anew.")
            if table.count_rows() > about["count"]:  # a build that was stopped has added them since the last save
                table.delete(f"row >= {about['count']}")
            return saved(about, LanceIndex(self, table, field.type.list_size, where), where)

    def write(self, folder: Path, index: SavedIndex) -> None:
        vectors = index.vectors
        assert isinstance(vectors, LanceIndex)
        with _typed(self._where(folder)):
            vectors.update_index()
            self._state(self._connect(folder), about_of(index) | {"count": len(vectors)}, "overwrite")

    @property
    def _about(self) -> str:
        return f"{self.table}_about"

    def _where(self, folder: Path) -> str:
        return self.uri or str(folder / "lancedb")

    def _connect(self, folder: Path) -> Any:
        where = self._where(folder)
        if self.uri is None:
            folder.mkdir(parents=True, exist_ok=True)
        options = None if self.storage_options is None else dict(self.storage_options)
        return import_lancedb().connect(where, storage_options=options)

    def _state(self, database: Any, about: dict[str, Any], mode: str) -> None:
        rows = [{"about": json.dumps({"mark": _MARK, **about})}]
        database.create_table(self._about, rows, mode=mode)


class LanceIndex:
    """Rows of a LanceDB table."""

    def __init__(self, engine: LanceDB, table: Any, dim: int, where: str) -> None:
        self.engine, self.table, self.where = engine, table, where
        self._dim, self._count = dim, table.count_rows()

    def __len__(self) -> int:
        return self._count

    @property
    def dim(self) -> int:
        return self._dim

    def add(self, vectors: Float32[np.ndarray, "rows dim"], ids: Sequence[str], sources: Sequence[str | None]) -> None:
        """Append rows to the table; they count once `LanceDB.write` has stated them."""
        arrow = importlib.import_module("pyarrow")
        flat = arrow.array(np.ascontiguousarray(vectors).ravel())
        columns = [
            arrow.array(np.arange(self._count, self._count + len(vectors))),
            arrow.array(list(ids), arrow.string()),
            arrow.array(list(sources), arrow.string()),
            arrow.FixedSizeListArray.from_arrays(flat, self._dim),
        ]
        with _typed(self.where):
            self.table.add(arrow.Table.from_arrays(columns, schema=_schema(self._dim)))
        self._count += len(vectors)

    def rows(self, rows: Int[np.ndarray, " rows"]) -> Float32[np.ndarray, "rows dim"]:
        """The vectors of some rows."""
        if not len(rows):
            return np.empty((0, self._dim), np.float32)
        with _typed(self.where):
            found = self.table.search().where(f"row IN ({', '.join(map(str, set(rows.tolist())))})").to_arrow()
            place = {row: i for i, row in enumerate(found["row"].to_pylist())}
            return self._vectors(found)[[place[row] for row in rows.tolist()]]

    def search(
        self, query: Float32[np.ndarray, " dim"], k: int, excluded: Excluded
    ) -> tuple[Int[np.ndarray, " hits"], Float[np.ndarray, " hits"]]:
        """Rows and cosines of the ``k`` nearest vectors that SQL does not exclude, best first, equal in row order."""
        left = int(excluded.allowed.sum())
        without = " AND ".join(filter(None, [_not_in("id", excluded.ids), _not_in("source", excluded.sources)]))

        def propose(ask: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            found = self._ask(query, ask, without, exhaustive=False)
            if found.num_rows < ask:  # the probed lists hold too few that are not excluded
                found = self._ask(query, ask, without, exhaustive=True)
            if found.num_rows < ask:
                raise FileError(f"{self.where} has lost rows of the bank; delete the index, and it is built anew.")
            return found["row"].to_numpy(), 1 - found["_distance"].to_numpy(), self._vectors(found)

        with _typed(self.where):
            return nearest(query, k, left, propose)

    def update_index(self) -> None:
        """Bring the disk index up to date if it lacks many rows."""
        if self._count < self.engine.index_from:
            return
        kinds = importlib.import_module("lancedb.index")
        indices = {index.name for index in self.table.list_indices()}
        if "vector_idx" in indices:
            if self.table.index_stats("vector_idx").num_unindexed_rows > _STALE * self._count:
                self.table.optimize()
            return
        self.table.create_index("vector", config=kinds.IvfRq(distance_type="dot", num_bits=4))
        for column in ("row", "id"):
            self.table.create_index(column, config=kinds.BTree())

    def _ask(self, query: np.ndarray, count: int, without: str, exhaustive: bool) -> Any:
        asked = self.table.search(query, vector_column_name="vector").distance_type("dot").limit(count)
        asked = asked.select(["row", "vector", "_distance"]).refine_factor(self.engine.refine)
        asked = asked.bypass_vector_index() if exhaustive else asked.nprobes(self.engine.nprobes or self._count)
        return (asked.where(without, prefilter=True) if without else asked).to_arrow()

    def _vectors(self, found: Any) -> Float32[np.ndarray, "rows dim"]:
        column = found["vector"].combine_chunks()
        return column.flatten().to_numpy().reshape(found.num_rows, self._dim)


def import_lancedb() -> Any:
    """The lancedb module, imported lazily because it is large and optional."""
    try:
        return importlib.import_module("lancedb")
    except ImportError:
        raise MemkitError("This index is kept by LanceDB; install it: pip install memkit[lancedb]") from None


def _schema(dim: int) -> Any:
    arrow = importlib.import_module("pyarrow")
    vector = arrow.list_(arrow.float32(), dim)
    return arrow.schema(
        [("row", arrow.int64()), ("id", arrow.string()), ("source", arrow.string()), ("vector", vector)]
    )


def _names(database: Any) -> list[str]:
    return list(database.list_tables(limit=10_000).tables)


def _not_in(column: str, values: Collection[str]) -> str:
    """A condition in SQL that none of the values holds; one without values is true for all of them."""
    if not values:
        return ""
    quoted = ", ".join("'" + value.replace("'", "''") + "'" for value in sorted(values))
    return f"({column} IS NULL OR {column} NOT IN ({quoted}))"


@contextmanager
def _typed(where: str, kind: type[MemkitError] = FileError) -> Iterator[None]:
    """Inside, what LanceDB raises for damaged or missing files becomes a typed error that names the place."""
    try:
        yield
    except MemkitError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # of its library in Rust
            raise
        why = " ".join(str(error).split())[:300]
        raise kind(
            f"LanceDB cannot use {where} ({type(error).__name__}: {why}); check the place, or delete the index there, "
            "and it is built anew."
        ) from error
