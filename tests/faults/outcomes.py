"""What comes of a fault, and values as digests, so that "the same result" means the same bits."""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

TYPED, REPAIRED, HARMLESS, UNKNOWABLE = "typed", "repaired", "harmless", "unknowable"
SILENT, UNNAMED, RAW, HANG, LEFTOVERS, LOST = "silent", "unnamed", "raw", "hang", "leftovers", "lost"

MEANINGS = {
    TYPED: "an error of memkit that names the file or the argument",
    REPAIRED: "another result, or the same after more work, and a warning that says so",
    HARMLESS: "the result that the whole file or the valid input gives, bit for bit",
    UNKNOWABLE: "another result, where the format has nothing that could tell",
    SILENT: "another result without a word",
    UNNAMED: "an error of memkit that does not say where",
    RAW: "any other exception, or the end of the process",
    HANG: "no end within the time limit",
    LEFTOVERS: "files of an interrupted operation that are there for good",
    LOST: "what was written before is gone, or neither the state before nor the one after",
}
GOOD = (TYPED, REPAIRED, HARMLESS, UNKNOWABLE)


class Result(NamedTuple):
    """One fault and what came of it."""

    kind: str
    fault: str
    """What was done, in words that tell how to do it again."""
    outcome: str
    detail: str = ""

    @property
    def good(self) -> bool:
        return self.outcome in GOOD


def digest(value: Any) -> str:
    """SHA-256 of a value: tensors and arrays by dtype, shape and bits, objects by their fields."""
    found = hashlib.sha256()
    _feed(found, value)
    return found.hexdigest()


def _feed(found: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        bits = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        found.update(f"tensor {value.dtype} {tuple(value.shape)} ".encode() + bits)
    elif isinstance(value, np.ndarray):
        found.update(f"array {value.dtype} {value.shape} ".encode() + np.ascontiguousarray(value).tobytes())
    elif isinstance(value, torch.nn.Module):
        _feed(found, dict(value.state_dict()))
    elif isinstance(value, float):
        found.update(b"float" + struct.pack("<d", value))
    elif value is None or isinstance(value, str | bytes | int | Path | torch.dtype | torch.device | np.generic):
        found.update(f"{type(value).__name__} {value!r}\n".encode())
    elif dataclasses.is_dataclass(value):
        _feed(found, {field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    elif isinstance(value, Mapping):
        found.update(f"mapping {len(value)} ".encode())
        for key, item in value.items():
            _feed(found, key)
            _feed(found, item)
    elif isinstance(value, Sequence):
        found.update(f"sequence {len(value)} ".encode())
        for item in value:
            _feed(found, item)
    else:
        raise TypeError(f"digest() does not know how to compare a {type(value).__name__}")
