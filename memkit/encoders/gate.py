"""`MemoryGate`: one scale per layer and head, so that untrained memory changes a model little or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memkit.checks import LAYERS, check_number, check_whole
from memkit.files.checksums import verify_checksum
from memkit.files.tensors import load_exactly, read_state_dict, write_safetensors
from memkit.files.values import is_count

GATE_FILE = "gate.safetensors"


class MemoryGate(nn.Module):
    """Scales the contribution of memory to the output of each head by ``tanh(weight)`` [layers, heads].

    Zero-initialised gates are from LLaMA-Adapter (arXiv 2303.16199). Assign it to an encoder
    (``encoder.gate = MemoryGate(30, 12, start=0.1)``): it is then trained, saved and loaded with the encoder, and is
    part of every `Memory` that the encoder returns.

    Args:
        num_layers: number of blocks of the transformer.
        num_heads: number of attention heads per block.
        start: initial value of every weight, before tanh. At 0, the outputs of the model are initially unchanged, bit
            for bit, but the encoder gets no gradient until the gate has changed, and the gradient of the gate depends
            on the untrained encoder: training is faster with a small value such as 0.1.

    Raises `InputError` for less than one layer or head, and for a start that is not finite, or beyond ±100.
    """

    def __init__(self, num_layers: int, num_heads: int, start: float = 0.0) -> None:
        super().__init__()
        check_whole("num_layers", num_layers, *LAYERS)
        check_whole("num_heads", num_heads, *LAYERS)
        check_number("start", start, -100, 100)
        self.weight = nn.Parameter(torch.full((num_layers, num_heads), start))

    def forward(self) -> Float[Tensor, "layers heads"]:
        """The scale of each layer and head, in (-1, 1)."""
        return self.weight.tanh()

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> MemoryGate | None:
        """Load the gate from the folder of an encoder; None if it has no gate."""
        file = Path(folder, GATE_FILE)
        if not file.exists():
            return None
        verify_checksum(file)
        tensors = read_state_dict(file, "save the encoder again")
        shape = tensors["weight"].shape if "weight" in tensors else ()
        gate = MemoryGate(*shape) if len(shape) == 2 and all(map(is_count, shape)) else MemoryGate(1, 1)
        load_exactly(gate, tensors, file)
        return gate

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the gate to the folder of an encoder, atomically."""
        write_safetensors(Path(folder, GATE_FILE), {"weight": self.weight}, "gate", {})
