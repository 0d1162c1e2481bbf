"""`load_optimizer`: the state of an optimizer, which has to fit the parameters; torch compares only their number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from memkit.errors import InputError


def load_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """``optimizer.load_state_dict(state)``, and `InputError` unless groups and shapes are those of its parameters."""
    groups, parameters = state["param_groups"], [p for group in optimizer.param_groups for p in group["params"]]
    saved, own = ([len(group["params"]) for group in some] for some in (groups, optimizer.param_groups))
    if saved != own:
        raise InputError(f"Its optimizer has groups of {saved} parameters instead of {own}.")
    numbers = [number for group in groups for number in group["params"]]
    if unknown := state["state"].keys() - set(numbers):
        raise InputError(f"Its optimizer has a state of unknown parameters: {sorted(map(str, unknown))[:8]}.")
    for number, parameter in zip(numbers, parameters, strict=True):
        for name, value in state["state"].get(number, {}).items():
            if isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape:
                shapes = f"{tuple(value.shape)} instead of {tuple(parameter.shape)}"
                raise InputError(f"Its optimizer has {name} of parameter {number} with the shape {shapes}.")
    optimizer.load_state_dict(dict(state))
