"""Training in several processes, with sharded weights and an experiment tracker, on accelerate's and torch's own API.

accelerate launch -m recipes.dit_mem.train --preset wan2.1-1.3b
torchrun --nproc-per-node 8 -m recipes.dit_mem.train --preset wan2.1-1.3b
"""

from __future__ import annotations

import importlib.util
from typing import Any

from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from memkit.display import size_of
from memkit.errors import InputError
from memkit.training.loop import pick_device
from memkit.training.settings import Settings


def launch(settings: Settings, project: str, config: dict[str, Any]) -> Accelerator:
    """The `Accelerator` of this process; its tracker, if there is one, is given ``config``, the settings of the run.

    Raises `InputError` if the tracker is not installed.
    """
    tracker = settings.tracker
    if tracker != "none" and importlib.util.find_spec(tracker) is None:
        raise InputError(f"{tracker} is not installed; pip install {tracker}, or leave --tracker out.")
    accelerator = Accelerator(
        cpu=pick_device(settings.device).type == "cpu",
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        log_with=None if tracker == "none" else tracker,
        project_dir=settings.out,
        kwargs_handlers=[  # a step may leave parts of the model unused: without a past, or in pre-training
            DistributedDataParallelKwargs(
                find_unused_parameters=True, broadcast_buffers=False, gradient_as_bucket_view=True
            )
        ],
    )
    if tracker != "none":
        accelerator.init_trackers(project, {name: _plain(value) for name, value in config.items()})
    return accelerator


def micro_batches(accelerator: Accelerator) -> list[tuple[int, int]]:
    """The shares (index, count) of a step's batch that this process computes, one after the other.

    Processes and accumulated passes divide the batch in the same way: two processes, or two accumulated passes,
    compute the step of a single process with twice the batch.
    """
    processes, accumulated = accelerator.num_processes, accelerator.gradient_accumulation_steps
    return [(accelerator.process_index + i * processes, processes * accumulated) for i in range(accumulated)]


def sharded(accelerator: Accelerator, wanted: bool) -> bool:
    """Whether weights are to be spread over the processes: if that is ``wanted``, and there are several."""
    return wanted and accelerator.num_processes > 1


def shard(model: nn.Module, transformer: Any) -> None:
    """Spread the weights of a model over the processes (FSDP2): each block of its transformer, then the rest together.

    The weights move to the accelerator, if there is one. What the model computes stays the same.
    """
    for block in transformer.blocks:
        fully_shard(block)
    fully_shard(model)


def distribute(accelerator: Accelerator, model: nn.Module, transformer: nn.Module, wanted: bool) -> nn.Module:
    """The model to call in a training loop: sharded if that is ``wanted``, else as accelerate prepares it (DDP).

    The optimizer is made after this, for sharding replaces the parameters.
    """
    if not sharded(accelerator, wanted):
        return accelerator.prepare(model)
    shard(model, transformer)
    return model


def report_sharding(accelerator: Accelerator, *transformers: nn.Module) -> None:
    """Print how much of the weights each process holds, where there are several."""
    weights = [p for transformer in transformers for p in transformer.parameters()]
    here = sum((p.to_local() if isinstance(p, DTensor) else p).nbytes for p in weights)
    whole = sum(p.numel() * p.element_size() for p in weights)
    if accelerator.num_processes > 1:
        held = f"{size_of(here)} of {size_of(whole)} of the backbone"
        accelerator.print(f"{held} in each of {accelerator.num_processes} processes")


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str) else str(value)
