"""Banks and their indices."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memkit.banks import MemoryBank
from memkit.retrievers import Excluded
from memkit.retrievers.index import BankIndex
from tests.faults.kinds import FileKind
from tests.helpers.small_banks import cameras, latents

DIM = 8


def make_bank(folder: Path, seed: int) -> None:
    """Four clips in three shards, one of them with cameras."""
    bank = MemoryBank.create(folder, {"model": "tiny", "fps": 8.0, "seed": seed})
    bank.add("ball", latents(4 * seed), f"a ball falls {seed}", "film.mp4", cameras(3, seed))
    bank.add("cube", latents(4 * seed + 1), "a cube slides, größer")
    with bank:
        bank.add("ice", latents(4 * seed + 2, dtype=torch.bfloat16), "ice melts", "film.mp4")
        bank.add("walk", latents(4 * seed + 3), "a walk")


def use_bank(folder: Path) -> object:
    bank = MemoryBank.open(folder)
    clips = [bank.clip(id) for id in bank.ids]
    return bank.ids, bank.captions, bank.sources, bank.info, bank.fingerprint, clips, bank.verify()


def read_bank(folder: Path) -> object:
    """Without ``verify``: a damaged shard must show when it is read."""
    bank = MemoryBank.open(folder)
    return bank.ids, bank.captions, [(bank.clip(id).latents, bank.clip(id).cameras) for id in bank.ids]


def embed(texts: list[str]) -> Tensor:
    """A vector of each text from its digest, of unit length."""
    rows = [[byte - 127.5 for byte in hashlib.sha256(text.encode()).digest()[:DIM]] for text in texts]
    return torch.nn.functional.normalize(torch.tensor(rows), dim=1)


def open_index(folder: Path) -> BankIndex:
    def captions(bank: Any) -> list[str | None]:
        return list(bank.captions)

    return BankIndex(MemoryBank.open(folder), "captions", {"model": "digest"}, DIM, captions, embed, 2)


def make_index(folder: Path, seed: int) -> None:
    make_bank(folder, seed)
    open_index(folder)


def use_index(folder: Path) -> object:
    index = open_index(folder)
    query = embed(["a ball"])[0].numpy()
    allowed = torch.ones(len(index.table), dtype=torch.bool).numpy()
    return index.table.ids, index.vectors.search(query, 3, Excluded(frozenset(), frozenset(), allowed))


KINDS = (
    FileKind("bank, verified", make_bank, use_bank),
    FileKind("bank, read", make_bank, read_bank),
    FileKind("bank index", make_index, use_index, ("index/*",)),
)
