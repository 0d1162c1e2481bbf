"""Which engine keeps the vectors of a bank if none is named."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

from memkit.retrievers.engines.exact import Exact
from memkit.retrievers.engines.lance import LanceDB
from memkit.retrievers.engines.protocol import Engine
from memkit.retrievers.engines.qdrant import Qdrant
from memkit.retrievers.saved_index import has_saved

log = logging.getLogger(__name__)

IN_MEMORY = 3 * 2**30
"""Bytes of float32 vectors up to which an exact search in memory is the default: about a million clips at width 768.

At that size an exact query takes a quarter of a second and the process more than 3 GB, and so it grows.
"""


def choose(folder: Path, count: int, dim: int) -> Engine:
    """`Exact` up to `IN_MEMORY`, `LanceDB` above if it is installed; an index that is there keeps its engine."""
    if (folder / "lancedb").is_dir():
        return LanceDB()
    if (folder / "qdrant").is_dir():
        return Qdrant()
    if 4 * count * dim <= IN_MEMORY or has_saved(folder):
        return Exact()
    if importlib.util.find_spec("lancedb") is None:
        log.warning(
            "The %d vectors of the index %s are kept in memory (%.1f GB) because lancedb is not installed; install it "
            "(pip install memkit[lancedb]), or choose an engine.",
            count,
            folder,
            4 * count * dim / 1e9,
        )
        return Exact()
    return LanceDB()
