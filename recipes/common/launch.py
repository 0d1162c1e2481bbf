"""Many processes, and a tracker behind one call; both are accelerate's.

accelerate launch -m recipes.dit_mem.train --preset wan2.1-1.3b
torchrun --nproc-per-node 8 -m recipes.dit_mem.train --preset wan2.1-1.3b
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from memkit.errors import InputError
from recipes.common.training import pick_device

Tracker = Literal["none", "trackio", "wandb", "tensorboard"]


def launch(device: str, tracker: Tracker, project: str, settings: dict[str, Any], out: Path) -> Accelerator:
    """This process among those that were launched with it, and the tracker, if one is wanted, told the settings.

    Raises `InputError` where the tracker is not installed.
    """
    if tracker != "none" and importlib.util.find_spec(tracker) is None:
        raise InputError(f"{tracker} is not installed; pip install {tracker}, or leave --tracker out.")
    cpu = pick_device(device).type == "cpu"
    launched = Accelerator(cpu=cpu, log_with=None if tracker == "none" else tracker, project_dir=out)
    if tracker != "none":
        launched.init_trackers(project, {name: _plain(value) for name, value in settings.items()})
    return launched


def mean_gradients(launched: Accelerator, parameters: Iterable[nn.Parameter]) -> None:
    """Leave the mean of the gradients of all processes on each, in one message.

    Every process must have gradients of the same parameters.
    """
    if launched.num_processes == 1:
        return
    grads = [p.grad for p in parameters if p.grad is not None]
    mean = launched.reduce(torch.cat([grad.flatten() for grad in grads]), "mean")
    assert isinstance(mean, Tensor)
    for grad, part in zip(grads, mean.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(part.view_as(grad))


def shard(transformer: nn.Module) -> None:
    """Spread the weights of a Wan over the processes, a block at a time (FSDP2), for a model that fits on none.

    The weights move to the accelerator, where there is one. What the model computes stays the same.
    """
    for block in transformer.blocks:  # type: ignore[union-attr]
        fully_shard(block)  # type: ignore[arg-type]
    fully_shard(transformer)


def report_sharding(launched: Accelerator, *transformers: nn.Module) -> None:
    """Print how many megabytes of the weights this process holds, and how many there are."""
    weights = [p for transformer in transformers for p in transformer.parameters()]
    here = sum((p.to_local() if isinstance(p, DTensor) else p).nbytes for p in weights) / 1e6
    whole = sum(p.numel() * p.element_size() for p in weights) / 1e6
    launched.print(f"{here:.1f} of {whole:.1f} MB of the backbone in each of {launched.num_processes} processes")


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str) else str(value)
