"""Save and load cached frames: one safetensors file, with budget, positions and pins as JSON in its header."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from memkit.files.tensors import FileKind, open_tensors, save_tensors
from memkit.injectors.kv_cache.slots import SlotCache

KIND, KEY = FileKind("saved cache", "memkit-kv-cache", 1), "session"


def save_branches(path: Path, budget_bytes: int, branches: Mapping[str, SlotCache]) -> None:
    """Write the frames of all branches to a file, atomically.

    Raises:
        InputError: the file cannot be written.
    """
    tensors, saved = {}, {}
    for number, (name, branch) in enumerate(branches.items()):
        layers = branch.layers if branch.positions else 0
        saved[name] = {"positions": branch.positions, "pinned": branch.pinned, "layers": layers}
        saved[name]["frame_size"] = branch.frame_size
        for layer in range(layers):
            for kind, x in zip("kv", branch.get(layer), strict=True):
                tensors[f"{number}.{layer}.{kind}"] = x
    save_tensors(path, KIND, KEY, {"budget_bytes": budget_bytes, "branches": saved}, tensors)


def load_branches(path: Path, device: torch.device | str) -> tuple[int, dict[str, SlotCache]]:
    """Load the budget and the branches that `save_branches` wrote.

    Raises:
        InputError: there is no such file, it does not contain a cache of this version, or it is damaged.
    """
    with open_tensors(path, KIND, KEY, device) as (header, file):
        budget_bytes, branches, get = header["budget_bytes"], {}, file.get_tensor
        for number, (name, saved) in enumerate(header["branches"].items()):
            branches[name] = SlotCache(budget_bytes // len(header["branches"]))
            if saved["positions"]:
                pairs = [(get(f"{number}.{i}.k"), get(f"{number}.{i}.v")) for i in range(saved["layers"])]
                size = saved.get("frame_size")  # caches that were saved by earlier versions do not tell
                branches[name].update(saved["positions"], pairs, frame_size=None if size is None else tuple(size))
                branches[name].pin(saved["pinned"])
    return budget_bytes, branches
