"""torch.compile with everything that attaches; run by test_compiled.py in an interpreter of its own.

The run-time checks of shapes, which torch.compile cannot trace, are off there. Prints, as JSON by row and cell, the
largest difference from the model that is not compiled, or the error.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch._dynamo
from torch import Tensor

from memkit.errors import MemkitError
from tests.compat.declared import Refused
from tests.helpers.attachables import ATTACHABLES, EVERYTHING, call
from tests.helpers.random_wan import random_transformer

LAYERS = {"num_layers": 1}
ATOL = 1e-5
INSIDE = ("block_layers", "text_regions")
"""What has hooks inside of the blocks, at which torch.compile does not look: one on each kind of attention."""


@dataclass(frozen=True)
class Compiled:
    """A way to compile a model."""

    title: str
    compile: Callable[[Any], Any]
    """In place or as a wrapper, which is returned."""
    refused: Mapping[str, Refused] = field(default_factory=dict)


def by_block(model: Any) -> Any:
    model.compile_repeated_blocks(backend="eager", fullgraph=True)
    return model


COMPILED = {
    "repeated_blocks": Compiled("`compile_repeated_blocks(fullgraph=True)`", by_block),
    "fullgraph": Compiled(
        "`torch.compile(fullgraph=True)`", lambda model: torch.compile(model, backend="eager", fullgraph=True)
    ),
}


def measured(row: str, name: str, warm: bool) -> float | str:
    """Compiled and run before it is attached (``warm``), or after."""
    model, one = random_transformer(**LAYERS), EVERYTHING[name](**LAYERS)
    own = call(model)
    with one.thing.attach(model) as attached:
        want = one.forward(model, attached)
    one = EVERYTHING[name](**LAYERS)
    differences: list[Tensor] = []
    called = COMPILED[row].compile(model) if warm else model
    if warm:
        differences.append(call(called) - own)
    try:
        with one.thing.attach(called) as attached:
            called = called if warm else COMPILED[row].compile(model)
            differences.append(one.forward(called, attached) - want)
    except MemkitError as error:
        return str(error)
    except Exception as error:
        return f"not typed: {type(error).__name__}: {error}"
    differences.append(call(called) - own)
    return max(x.abs().max().item() for x in differences)


if __name__ == "__main__":
    gc.disable()  # a tenth of the time; the process is short
    torch.set_num_threads(1)
    # nothing is reset between the cells: each meets what earlier ones compiled, which it must use rightly or not at all
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 10**4
    with torch.no_grad():
        cells = [(name, warm) for name in ATTACHABLES for warm in (True, False)]
        found = {f"{name}-{'compiled' if warm else 'attached'}_first": (name, warm) for name, warm in cells}
        rows = {row: {cell: measured(row, *how) for cell, how in found.items()} for row in COMPILED}
        print(json.dumps({**rows, "inside": {name: measured("repeated_blocks", name, False) for name in INSIDE}}))
