"""``memkit retrieve``: find clips by text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from memkit.cli.text import one_line


@dataclass(frozen=True)
class Retrieve:
    """Find the clips of a bank whose captions are closest to a text.

    Prints one line per clip: id, score and caption, separated by tabs.
    """

    bank: tyro.conf.Positional[Path]
    """Folder of the bank."""
    text: tyro.conf.Positional[str]
    """The text to search for."""
    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 5
    """How many clips to return."""
    model: str | None = None
    """Text encoder: a folder or a Hub id; by default the one that comes with memkit."""

    def run(self) -> int:
        from memkit.banks.bank import MemoryBank
        from memkit.retrievers.text import TextRetriever

        bank = MemoryBank.open(self.bank)
        retriever = TextRetriever(bank) if self.model is None else TextRetriever(bank, model=self.model)
        captions = dict(zip(bank.ids, bank.captions, strict=True))
        hits = retriever(self.text, k=self.k)
        for id, score in zip(hits.ids, hits.scores, strict=True):
            print(f"{id}\t{score:.4f}\t{one_line(captions[id])}")
        return 0
