"""Ways to damage a model's folder, each undone at the end of its ``with``, so that one copy of the folder is enough."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

Damage = Callable[[bytes], bytes | None]
"""From the bytes of a file to others, or to None where the file is removed."""

DAMAGES: dict[str, Damage] = {
    "missing": lambda content: None,
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
}
JSON_DAMAGES: dict[str, Damage] = {
    "nested": lambda content: b"[" * 100_000,
    "a list": lambda content: b"[]",
    "null": lambda content: b"null",
    "no UTF-8": lambda content: b"\xff\xfe\0\1",
    "NaN": lambda content: b'{"a": NaN}',
}


@contextmanager
def damaged(file: Path, damage: Damage) -> Iterator[None]:
    """Inside, ``file`` is damaged."""
    before = file.read_bytes()
    after = damage(before)
    if after is None:
        file.unlink()
    else:
        file.write_bytes(after)
    try:
        yield
    finally:
        file.write_bytes(before)


def with_values(**changes: Any) -> Damage:
    """Other values in a JSON file; `...` stands for none."""

    def damage(content: bytes) -> bytes:
        values = {**json.loads(content), **changes}
        return json.dumps({name: value for name, value in values.items() if value is not ...}).encode()

    return damage


def with_tensor(name: str, change: Callable[[Tensor], Tensor | None]) -> Damage:
    """Another tensor in a safetensors file, or none."""

    def damage(content: bytes) -> bytes:
        tensors = load(content)
        changed = change(tensors.pop(name))
        return save(tensors if changed is None else {**tensors, name: changed.contiguous()}, {"format": "pt"})

    return damage


def with_one(value: float) -> Callable[[Tensor], Tensor]:
    """A tensor whose first value is another one."""
    return lambda tensor: torch.cat([torch.tensor([value]).to(tensor), tensor.flatten()[1:]]).view_as(tensor)
