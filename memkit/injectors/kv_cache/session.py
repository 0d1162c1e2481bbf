"""A session of cached frames on disk: one safetensors file, with budget, positions and pins as JSON in its header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from memkit.errors import InputError
from memkit.files import atomic_write
from memkit.injectors.kv_cache.slots import SlotCache

FORMAT, VERSION = "memkit-kv-cache", 1


def save_branches(path: Path, budget_bytes: int, branches: Mapping[str, SlotCache]) -> None:
    """Write the frames that are held, by position; the file is whole or not there.

    Raises:
        InputError: the file cannot be written.
    """
    tensors, saved = {}, {}
    for number, (name, branch) in enumerate(branches.items()):
        saved[name] = {"positions": branch.positions, "pinned": branch.pinned, "layers": branch.layers}
        for layer in range(branch.layers if branch.positions else 0):
            for kind, x in zip("kv", branch.get(layer), strict=True):
                tensors[f"{number}.{layer}.{kind}"] = x.cpu().contiguous()
    header = {"format": FORMAT, "version": VERSION, "budget_bytes": budget_bytes, "branches": saved}
    try:
        with atomic_write(path) as partial:
            save_file(tensors, partial, metadata={"session": json.dumps(header)})
    except (OSError, SafetensorError) as error:
        raise InputError(f"Cannot write {path} ({error}); give a file in a folder that can be written.") from error


def load_branches(path: Path, device: torch.device | str) -> tuple[int, dict[str, SlotCache]]:
    """The budget and the branches that `save_branches` wrote.

    Raises:
        InputError: there is no such file, or it holds no cache of this version, or is damaged.
    """
    try:
        with safe_open(path, "pt", device=str(device)) as file:
            header = json.loads(file.metadata()["session"])
            if (header["format"], header["version"]) != (FORMAT, VERSION):
                raise InputError(f"{path} is no {FORMAT} of version {VERSION}; save it with this memkit.")
            budget_bytes, branches, get = header["budget_bytes"], {}, file.get_tensor
            for number, (name, saved) in enumerate(header["branches"].items()):
                branches[name] = SlotCache(budget_bytes // len(header["branches"]))
                if saved["positions"]:
                    pairs = [(get(f"{number}.{i}.k"), get(f"{number}.{i}.v")) for i in range(saved["layers"])]
                    branches[name].update(saved["positions"], pairs)
                    branches[name].pin(saved["pinned"])
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"There is no saved cache at {path}.") from error
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no saved cache, or is damaged ({error}); save it again.") from error
    return budget_bytes, branches
