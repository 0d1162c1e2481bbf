"""The caption index in the format that DiT-Mem released: ``labels.index`` and ``id_map.json``."""

from __future__ import annotations

import logging
import os

import numpy as np

from memkit.dit_mem_release.id_map import read_id_map
from memkit.errors import InputError
from memkit.retrievers.vectors import FlatVectors, read_flat_ip

log = logging.getLogger(__name__)


def read_released(
    index_path: str | os.PathLike[str], id_map_path: str | os.PathLike[str]
) -> tuple[list[str], FlatVectors]:
    """Video names and caption vectors. A name that occurs again keeps only its first vector, with a warning.

    Raises `InputError` where a file has another format, or the two differ in length.
    """
    vectors = read_flat_ip(index_path)
    ids = read_id_map(id_map_path)
    if len(ids) != len(vectors):
        raise InputError(
            f"{id_map_path} names {len(ids)} videos but {index_path} holds {len(vectors)} vectors; "
            "use the two files that belong together."
        )
    first = {id: row for row, id in reversed(list(enumerate(ids)))}
    rows = np.array(sorted(first.values()), np.int64)
    if len(rows) < len(ids):
        log.warning("%s: %d videos are named more than once; the first counts.", id_map_path, len(ids) - len(rows))
        unique = FlatVectors.empty(vectors.dim)
        unique.add(vectors.rows(rows))
        ids, vectors = [ids[row] for row in rows], unique
    return ids, vectors
