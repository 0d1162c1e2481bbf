"""What the training loops share: the device, preparing transformers, fingerprints, learning rates, gradients."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer

from memkit.backbones.wan import WanBackbone
from memkit.checks import check_text
from memkit.errors import InputError
from memkit.generation.short_text import short_texts

LEAST_LR = 0.05  # where the cosine ends


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is CUDA if it is available. Raises `InputError` for one that is not there."""
    remedy = "give auto, cpu, or a device of this machine"
    check_text("The device", name)
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        if device.type != "cuda":  # whose first use would take memory of the first GPU in each process of a launch
            torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch raises them all
        why = str(error).partition("\n")[0][:200]
        raise InputError(f"There is no device {name!r} ({why}); {remedy}.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"There is no device {name!r} among {torch.cuda.device_count()} of CUDA; {remedy}.")
    return device


@contextmanager
def prepared(backbone: WanBackbone, text_length: int, checkpointing: bool) -> Iterator[None]:
    """Prepare the transformers of a backbone for training, and restore them afterwards.

    Inside, they take text embeddings of ``text_length`` tokens (`memkit.generation.short_texts`), and with
    ``checkpointing`` they recompute activations in the backward pass.
    """
    with ExitStack() as stack:
        stack.enter_context(short_texts(backbone.transformers, text_length))
        for transformer in backbone.transformers:
            if checkpointing:
                transformer.enable_gradient_checkpointing()
                stack.callback(transformer.disable_gradient_checkpointing)
        yield


def fingerprint(*modules: nn.Module) -> str:
    """SHA-256 of all parameters and buffers with their names, which is the same for the same bits."""
    digest = hashlib.sha256()
    for module in modules:
        for name, value in module.state_dict().items():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def generator_of(rng: random.Random) -> torch.Generator:
    """A generator of torch on the CPU, seeded by the next 63 bits of ``rng``."""
    return torch.Generator().manual_seed(rng.getrandbits(63))


def lr_multiplier(step: int, steps: int, warmup: int, schedule: Literal["constant", "cosine"]) -> float:
    """Factor of the learning rate at one of ``steps``: linear warm-up, then constant or a cosine to `LEAST_LR`."""
    share = min(1.0, (step + 1) / max(1, warmup))
    if schedule == "cosine":
        done = min(1.0, max(0, step - warmup) / max(1, steps - warmup))
        share *= LEAST_LR + (1 - LEAST_LR) * 0.5 * (1 + math.cos(math.pi * done))
    return share


def adamw(rates: Iterable[tuple[Iterable[nn.Parameter], float]]) -> AdamW:
    """AdamW without weight decay, with a rate for each group of parameters; empty groups are left out."""
    groups = [{"params": list(parameters), "rate": rate} for parameters, rate in rates]
    return AdamW([group for group in groups if group["params"]], weight_decay=0.0)


def set_learning_rate(optimizer: Optimizer, multiplier: float) -> None:
    """Set each group of `adamw` to its own rate times ``multiplier``."""
    for group in optimizer.param_groups:
        group["lr"] = group["rate"] * multiplier


def zero_missing_gradients(model: nn.Module) -> None:
    """Give a part that a step has not used gradients of zero, so that Adam's moments of it go on."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def clip_gradients(accelerator: Accelerator, model: nn.Module, max_norm: float) -> float:
    """`Accelerator.clip_grad_norm_`; the norm before clipping, of all shards where there are some."""
    norm: Any = accelerator.clip_grad_norm_(model.parameters(), max_norm)
    return (norm.full_tensor() if isinstance(norm, DTensor) else norm).item()
