"""A gate a layer and head, for memory that must not disturb the model before it is trained."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from memkit.errors import InputError
from memkit.files import atomic_write

GATE_FILE = "gate.safetensors"


class MemoryGate(nn.Module):
    """``tanh(weight)`` [layers, heads] scales what memory adds to each head's output.

    ``weight`` starts at ``start``. At 0 the model starts as itself, to the bit; but then the encoder gets no gradient
    before its gate has moved, and the gate's own gradient is that of an untrained encoder: a small start, as 0.1,
    learns faster.
    """

    def __init__(self, num_layers: int, num_heads: int, start: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((num_layers, num_heads), start))

    def layer(self, index: int) -> Tensor:
        """The gate of one layer [heads], before tanh."""
        return self.weight[index]

    @staticmethod
    def load(folder: Path) -> MemoryGate | None:
        """The gate that lies beside an encoder, or None where there is none."""
        file = folder / GATE_FILE
        if not file.exists():
            return None
        weight = load_file(file)["weight"]
        gate = MemoryGate(*weight.shape)
        gate.load_state_dict({"weight": weight})
        return gate

    def save(self, folder: Path) -> None:
        """Write the gate beside an encoder; the file is whole or not there."""
        with atomic_write(folder / GATE_FILE) as partial:
            save_file({"weight": self.weight.detach().cpu()}, partial)

    def check(self, num_layers: int, num_heads: int) -> None:
        """Raise InputError unless the gate was made for this many layers and heads."""
        if tuple(self.weight.shape) != (num_layers, num_heads):
            raise InputError(
                f"The gate is for {tuple(self.weight.shape)} layers and heads, the transformer has "
                f"{(num_layers, num_heads)}; make MemoryGate({num_layers}, {num_heads})."
            )
