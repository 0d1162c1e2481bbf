"""Save and load cached frames: one safetensors file, with budget, positions and pins as JSON in its header."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from memkit.errors import InputError
from memkit.files.tensors import FileKind, open_tensors, save_tensors
from memkit.injectors.kv_cache.branches import Branches
from memkit.injectors.kv_cache.parts import CacheParts
from memkit.injectors.kv_cache.stored_frames import load_stored, save_stored
from memkit.injectors.kv_cache.table import BudgetError

KIND, KEY = FileKind("saved cache", "memkit-kv-cache", 1), "session"
_PLAIN = CacheParts().stored_form()


def save_branches(path: Path, branches: Branches) -> None:
    """Write the frames of all branches to a file, atomically.

    Raises:
        InputError: the file cannot be written.
    """
    tensors, saved = {}, {}
    for number, (name, branch) in enumerate(branches.by_name.items()):
        layers = branch.layers if branch.positions else 0
        saved[name] = {"positions": branch.positions, "pinned": branch.pinned, "layers": layers}
        saved[name]["frame_size"] = branch.frame_size
        if branch.parts.stored_form() == _PLAIN:
            for layer in range(layers):
                for kind, x in zip("kv", branch.get(layer), strict=True):
                    tensors[f"{number}.{layer}.{kind}"] = x
        else:
            content, own = save_stored(branch)
            saved[name] |= content
            tensors |= {f"{number}.{key}": x for key, x in own.items()}
        if notes := {each: [p for p in branch.positions if p in at] for each, at in branch.notes.by_name.items()}:
            saved[name]["notes"] = notes
            for each, positions in notes.items():
                for p in positions:
                    tensors[f"{number}.note.{each}.{p}"] = branch.notes.by_name[each][p]
    header: dict[str, Any] = {"budget_bytes": branches.budget_bytes, "branches": saved}
    if (form := branches.parts.stored_form()) != _PLAIN:
        header["form"] = form
    save_tensors(path, KIND, KEY, header, tensors)


def load_branches(path: Path, device: torch.device | str, parts: CacheParts) -> Branches:
    """Load the branches that `save_branches` wrote.

    Raises:
        InputError: there is no such file, it does not contain a cache of this version, it is damaged, or it was saved
            with parts that store frames in another form.
    """
    with open_tensors(path, KIND, KEY, device) as (header, file):
        form = header.get("form", _PLAIN)
        if form != parts.stored_form():
            raise InputError(f"{path} was saved with a cache of other parts, {form}; give these parts when loading it.")
        branches, get = Branches(header["budget_bytes"], tuple(header["branches"]), 0, parts), file.get_tensor
        for number, (name, saved) in enumerate(header["branches"].items()):
            branch, positions = branches.by_name[name], saved["positions"]
            size = saved.get("frame_size")  # caches that were saved by earlier versions do not tell
            size = None if size is None else tuple(size)
            if positions and form == _PLAIN:
                pairs = [(get(f"{number}.{i}.k"), get(f"{number}.{i}.v")) for i in range(saved["layers"])]
                branch.update(positions, pairs, frame_size=size)
            elif positions:
                try:
                    load_stored(branch, saved, lambda key, number=number: get(f"{number}.{key}"))
                except BudgetError as error:
                    raise InputError(f"{path} does not fit into the places of these parts: {error}") from error
                branch.set_frame_size(size)
            if positions:
                branch.pin(saved["pinned"])
            for each, noted in saved.get("notes", {}).items():
                branch.note(each, noted, [get(f"{number}.note.{each}.{p}") for p in noted])
    return branches
