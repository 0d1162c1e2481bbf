"""Frames of a branch as they are stored, place by place: what is saved of caches with a form of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from memkit.injectors.kv_cache.slots import SlotCache
from memkit.injectors.kv_cache.storage.base import FrameLayout


def save_stored(branch: SlotCache) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What is stored of a branch: JSON for the header of a file, and tensors by name."""
    layers = [branch.layer(i) for i in range(branch.layers)]
    places, tensors = branch.table.places(), {}
    for number, layer in enumerate(layers):
        if layer.shelves is None:
            continue
        for place in set(places.values()):
            slots = [branch.table.slots[p] for p in branch.positions if places[p] == place]
            for _, stored in layer.shelves.stored(slots):
                tensors |= {f"{number}.{place}.{part}": x for part, x in enumerate(stored)}
        if branch.averages is not None:
            tensors |= {f"{number}.average.{kind}": x for kind, x in zip("kv", branch.averages[number], strict=True)}
    layouts = [_as_json(layer.layout) for layer in layers if layer.layout is not None]
    held = [places[p] for p in branch.positions]
    return {"places": held, "layouts": layouts, "averages": branch.averages is not None}, tensors


def load_stored(branch: SlotCache, saved: Mapping[str, Any], get: Callable[[str], Tensor]) -> None:
    """Fill an empty branch with what `save_stored` gave.

    Raises `BudgetError` where the places of the branch are smaller than those that were saved.
    """
    layouts = [_layout_of(content) for content in saved["layouts"]]
    positions, places = saved["positions"], saved["places"]
    device = get(f"0.{places[0]}.0").device
    branch.allocate([layout.zeros(device) for layout in layouts])
    branch.table.restore(dict(zip(positions, places, strict=True)))
    for number in range(len(layouts)):
        layer = branch.layer(number)
        assert layer.shelves is not None
        for place in set(places):
            slots = [branch.table.slots[p] for p, where in zip(positions, places, strict=True) if where == place]
            rows = [branch.table.place_of(slot)[1] for slot in slots]
            kinds = range(len(layer.shelves.tensors[place]))
            layer.shelves.put(place, rows, tuple(get(f"{number}.{place}.{part}") for part in kinds))
        branch.table.wrote(number, positions)
    if saved["averages"]:
        branch.averages = [(get(f"{i}.average.k"), get(f"{i}.average.v")) for i in range(len(layouts))]


def _as_json(layout: FrameLayout) -> list[Any]:
    return [*layout[:5], *(str(dtype).removeprefix("torch.") for dtype in layout[5:])]


def _layout_of(content: list[Any]) -> FrameLayout:
    kinds = {
        str(kind).removeprefix("torch."): kind for kind in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    }
    return FrameLayout(*content[:5], kinds[content[5]], kinds[content[6]])
