"""Ways to run on several processes, and what each of two processes measures with everything that attaches."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from memkit.errors import MemkitError
from tests.compat.declared import Refused
from tests.helpers.attachables import ATTACHABLES, call
from tests.helpers.random_wan import random_transformer


@dataclass(frozen=True)
class Parallel:
    """A way to run on several processes."""

    title: str
    atol: float = 0.0
    refused: Mapping[str, Refused] = field(default_factory=dict)


IN_PARTS = Refused(
    "runs in parallel over its tokens",
    "Each process would treat its part of the tokens as all of them, and give frames the positions of other frames. "
    "Generate one video per GPU, or shard the weights with FSDP2.",
)
SHARED_OUT = ("memory_tokens", "guided_memory")
"""What knows of the processes that share a video."""

PARALLEL = {
    "ddp": Parallel("DDP"),
    "fsdp2": Parallel("FSDP2 (`fully_shard`)"),
    "context_parallel": Parallel(
        "context parallel (`enable_parallelism`, Ulysses)",
        atol=1e-5,
        refused={name: IN_PARTS for name in ATTACHABLES if name not in SHARED_OUT},
    ),
}


def put(row: str, model: Any) -> Any:
    """Run the model in this way, in place or as a wrapper, which is returned."""
    if row == "ddp":
        return DistributedDataParallel(model)
    if row == "fsdp2":
        for block in model.blocks:
            fully_shard(block)
        return fully_shard(model)
    torch.accelerator.device_count = lambda: 1  # diffusers looks for accelerators; gloo needs none
    model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2, mesh=mesh()))
    return model


@functools.cache
def mesh() -> DeviceMesh:
    """That of two processes, which is made once: each makes groups of processes."""
    return init_device_mesh("cpu", (1, 2), mesh_dim_names=("ring", "ulysses"))


def measure() -> None:
    """Print, by row and cell, the largest difference from the plain model, or the error's message."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    cells = {f"{name}-{first}_first": (name, first) for name in ATTACHABLES for first in ("applied", "attached")}
    print(json.dumps({row: {cell: measured(row, *how) for cell, how in cells.items()} for row in PARALLEL}))
    dist.barrier()  # the first process holds what the others meet at
    dist.destroy_process_group()


def measured(row: str, name: str, first: str) -> float | str:
    model, one = random_transformer(), ATTACHABLES[name]()
    with torch.no_grad(), one.thing.attach(model) as attached:
        want = one.forward(model, attached)
    own, one = call(model), ATTACHABLES[name]()
    try:
        called = put(row, model) if first == "applied" else model
        with torch.no_grad():
            with one.thing.attach(called) as attached:
                called = put(row, model) if first == "attached" else called
                difference = (one.forward(called, attached) - want).abs().max()
            return max(difference, (call(called) - own).abs().max()).item()
    except MemkitError as error:
        return str(error)
