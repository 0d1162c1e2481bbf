"""Retrieval by caption."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32

from memkit.display import described
from memkit.dit_mem_release.clips import find_released_clips
from memkit.errors import InputError
from memkit.retrievers.dit_mem import read_released
from memkit.retrievers.embedders import DEFAULT_MODEL, Pooling, TextEmbedder
from memkit.retrievers.engines.protocol import Engine, VectorIndex
from memkit.retrievers.hits import ClipTable, check_text
from memkit.retrievers.index import BankIndex, ClipBank
from memkit.retrievers.vector_retriever import VectorRetriever


class TextRetriever(VectorRetriever[str]):
    """Clips whose captions are nearest to a prompt: cosine of text embeddings, in [-1, 1] (DiT-Mem, section 3).

    ``model`` is an id or folder of a Hugging Face text encoder, or a `TextEmbedder` to share; the other arguments are
    those of `TextEmbedder`. The embeddings are kept in ``<bank>/index/`` and follow the bank as it grows. Clips with a
    blank caption are never retrieved; equal captions tie, and the clip added first comes first.

    ``engine`` searches the embeddings: `Exact`, `Approximate`, `LanceDB` or `Qdrant`. By default the search is exact
    up to 3 GiB of embeddings and LanceDB's above, see ``docs/scale.md``; an index that is there keeps its engine.

    A call with a prompt returns `Hits`, with a list of prompts a list of them; see `Retriever.__call__`.
    """

    def __init__(
        self,
        bank: ClipBank,
        model: str | os.PathLike[str] | TextEmbedder = DEFAULT_MODEL,
        pooling: Pooling | None = None,
        max_length: int | None = None,
        trust_remote_code: bool = False,
        device: torch.device | str | None = None,
        engine: Engine | None = None,
    ) -> None:
        self.embedder = embedder = _embedder(model, pooling, max_length, trust_remote_code, device)
        self.files: dict[str, Path] = {}
        settings = {"text": embedder.name, "pooling": embedder.pooling, "max_length": embedder.max_length}
        index = BankIndex(
            bank,
            name=f"{embedder.name}-{embedder.pooling}-{embedder.max_length}",
            settings=settings | ({"library": "sentence-transformers"} if embedder.by_library else {}),
            dim=embedder.dim,
            contents=lambda bank: [caption if caption.strip() else None for caption in bank.captions],
            embed=embedder.encode,
            chunk=1024,
            engine=engine,
        )

        def now() -> tuple[ClipTable, VectorIndex]:
            index.refresh()
            return index.table, index.vectors

        self._now: Callable[[], tuple[ClipTable, VectorIndex]] = now

    def __repr__(self) -> str:
        return described(self, repr(self.embedder.name), f"{self.embedder.dim} dimensions")

    @classmethod
    def from_dit_mem(
        cls,
        index_path: str | os.PathLike[str],
        id_map_path: str | os.PathLike[str],
        model: str | os.PathLike[str] | TextEmbedder,
        pooling: Pooling | None = "cls",
        max_length: int | None = None,
        trust_remote_code: bool = False,
        device: torch.device | str | None = None,
        clips: str | os.PathLike[str] | None = None,
    ) -> TextRetriever:
        """A retriever over DiT-Mem's released files, ``labels.index`` and ``id_map.json``; ids are the video names.

        ``clips`` is the folder of their ``.pt`` latents or mp4s: ``files`` then gives the `Path` of each id, for
        `read_released_latents` or a VAE. For a folder with only some of the clips, pass the ids of the hits to
        `find_released_clips` instead. The release pools by the CLS token. It has no sources, so ``exclude_sources``
        raises `InputError`.

        Raises `InputError` where the two files do not fit each other or the model, have another format, or name clips
        for which ``clips`` has no file, or several.
        """
        ids, vectors = read_released(index_path, id_map_path)
        self = cls.__new__(cls)
        self.files = {} if clips is None else find_released_clips(ids, clips)
        if isinstance(model, TextEmbedder):
            pooling = None
        self.embedder = _embedder(model, pooling, max_length, trust_remote_code, device)
        if self.embedder.dim != vectors.dim:
            raise InputError(
                f"{index_path} holds vectors of {vectors.dim} numbers but {self.embedder.name} gives "
                f"{self.embedder.dim}; use the model that the index was made with."
            )
        table = ClipTable(ids, [None] * len(ids))
        self._now = lambda: (table, vectors)
        return self

    def _check(self, query: str, name: str) -> None:
        check_text(query, name)

    def _current(self) -> tuple[ClipTable, VectorIndex]:
        return self._now()

    def _vector(self, query: str) -> Float32[np.ndarray, " dim"]:
        return self.embedder.encode([query])[0].numpy()  # alone: a batch would change the last bits


def _embedder(
    model: str | os.PathLike[str] | TextEmbedder,
    pooling: Pooling | None,
    max_length: int | None,
    trust_remote_code: bool,
    device: torch.device | str | None,
) -> TextEmbedder:
    if not isinstance(model, TextEmbedder):
        return TextEmbedder(model, pooling, max_length, trust_remote_code, device)
    if pooling or max_length or trust_remote_code or device:
        raise InputError("The model is a TextEmbedder already; give pooling, max_length and device to it.")
    return model
