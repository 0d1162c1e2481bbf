"""`Source`: the tensors of a checkpoint, whatever its format: described at once, read one by one when they are used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from memkit.files.headers import TensorInfo


@dataclass(frozen=True)
class Source:
    """The tensors of a checkpoint by their full names, in which the keys of nested dictionaries are joined by dots."""

    where: str
    """What errors call it: the path, or "The state dict"."""
    format: str
    """"safetensors", "torch", "GGUF" or "a state dict in memory"."""
    tensors: Mapping[str, TensorInfo]
    read: Callable[[str], Tensor]
    """The tensor of a full name. What was read from a file may be a view of it, which is valid while it exists."""
    files: tuple[Path, ...] = ()
    """The files that are read; more than one if it is sharded."""
