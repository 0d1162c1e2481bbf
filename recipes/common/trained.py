"""What a run trains, and how it is kept: whole in each process, or in pieces over all of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import WanTransformer3DModel
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from recipes.common.launch import mean_gradients


class Trained:
    """Modules with a rate each, some of which may be in pieces over the processes, and the optimizer's state."""

    def __init__(
        self, modules: Mapping[str, nn.Module], rates: Mapping[str, float], clip_norm: float, launched: Accelerator
    ) -> None:
        self.modules, self.clip_norm, self.launched = nn.ModuleDict(modules), clip_norm, launched
        groups = [{"params": list(module.parameters()), "rate": rates[name]} for name, module in modules.items()]
        self.optimizer = torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=0.0)

    def share_gradients(self) -> None:
        """Leave the mean over all processes on each parameter: of what is in pieces, it is there already.

        A part that a step has not used has gradients of zero, and Adam's moments go on.
        """
        for parameter in self.modules.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        mean_gradients(self.launched, [p for p in self.modules.parameters() if not isinstance(p, DTensor)])

    def update(self, share: float) -> Tensor:
        """Take the gradients, at this share of each rate, and clear them; their norm before clipping."""
        norm = self._clip()
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * share
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def _clip(self) -> Tensor:
        parameters = list(self.modules.parameters())
        if not any(isinstance(p, DTensor) for p in parameters):
            return nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        grads = [p.grad for p in parameters if p.grad is not None]
        pieces = [grad.to_local() for grad in grads if isinstance(grad, DTensor)]
        whole = [grad for grad in grads if not isinstance(grad, DTensor)]
        squares: Any = self.launched.reduce(_squares(pieces), "sum")
        norm = (squares + _squares(whole)).sqrt()
        for grad in (*pieces, *whole):
            grad.mul_((self.clip_norm / (norm + 1e-6)).clamp(max=1.0))
        return norm

    def state(self) -> dict[str, Any] | None:
        """Modules and optimizer, whole, for the main process; None for the others, which all take part."""
        main = self.launched.is_main_process
        state = {"modules": self.modules.state_dict(), "optimizer": self.optimizer.state_dict()}
        whole = {name: gathered(part, main) for name, part in state.items()}
        return whole if main else None

    def load(self, state: dict[str, Any]) -> None:
        """Take what `state` gave, whether of whole or of sharded training."""
        mine = self.modules.state_dict()
        self.modules.load_state_dict({name: _like(value, mine[name]) for name, value in state["modules"].items()})
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        moments = {
            i: {name: _like(value, parameters[i]) for name, value in of.items()}
            for i, of in state["optimizer"]["state"].items()
        }
        self.optimizer.load_state_dict({**state["optimizer"], "state": moments})


def gathered(state: Any, keep: bool) -> Any:
    """A state dict with whole tensors in place of pieces, one at a time, on the CPU; empty where it is not kept."""
    if isinstance(state, DTensor):
        whole = state.full_tensor()  # all processes take part
        return whole.cpu() if keep else whole.new_empty(0)
    if isinstance(state, dict):
        return {name: gathered(value, keep) for name, value in state.items()}
    return state


def save_transformer(transformer: WanTransformer3DModel, state: dict[str, Tensor], folder: Path) -> None:
    """As ``save_pretrained`` does, also where the transformer is in pieces; ``state`` has its weights, whole."""
    own = transformer
    if any(isinstance(p, DTensor) for p in transformer.parameters()):
        with torch.device("meta"):
            own: Any = WanTransformer3DModel.from_config(transformer.config)
        prefix = "transformer."
        weights = {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}
        own.load_state_dict(weights, assign=True)
    own.save_pretrained(folder)


def _squares(grads: list[Tensor]) -> Tensor:
    """Sum of all, fp32."""
    return torch.stack([grad.float().pow(2).sum() for grad in grads]).sum() if grads else torch.zeros(())


def _like(value: Any, like: Tensor) -> Any:
    """A whole tensor in pieces, where ``like`` is."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
