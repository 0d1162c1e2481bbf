"""Indices of captions by the letters in them, and what they embed."""

import numpy as np
import torch

from memkit.banks import MemoryBank
from memkit.retrievers.index import BankIndex


class Letters:
    """Embeds a text by its letter counts and remembers what it was asked for."""

    def __init__(self, shift=0.0):
        self.asked, self.shift = [], shift
        self.fail_after: int | None = None

    def __call__(self, texts):
        if self.fail_after is not None and len(self.asked) >= self.fail_after:
            raise KeyboardInterrupt
        self.asked += texts
        counts = [[text.count(letter) + self.shift * (letter == "a") for letter in "abcdefgh"] for text in texts]
        return torch.nn.functional.normalize(torch.tensor(counts, dtype=torch.float32), dim=-1)


def bank_at(path, captions):
    with MemoryBank.create(path) as bank:
        for i, caption in enumerate(captions):
            bank.add(f"clip{i}", torch.zeros(1, 1, 1, 1), caption)
    return bank


def index(bank, embed, **changes):
    arguments: dict = {
        "name": "letters",
        "settings": {"v": 1},
        "dim": 8,
        "contents": lambda bank: [caption or None for caption in bank.captions],
        "embed": embed,
        "chunk": 2,
    }
    return BankIndex(bank, **arguments | changes)


CAPTIONS = ["abc", "bad", "", "cab bed", "bad", "head"]


def same(one, other):
    assert one.table.ids == other.table.ids
    rows = np.arange(len(one.vectors))
    np.testing.assert_array_equal(one.vectors.rows(rows), other.vectors.rows(np.arange(len(other.vectors))))
