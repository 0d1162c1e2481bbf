"""`MemoryGate`: one scale per layer and head, so that untrained memory changes a model little or not at all."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memkit.checks import LAYERS, check_number, check_whole
from memkit.files.checksums import verify_checksum
from memkit.files.tensors import read_state_dict

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
    def sized_as(weight: Tensor) -> MemoryGate:
        """A gate of the size of ``weight``, which is to be loaded; the smallest where it is none of a gate."""
        fits = weight.ndim == 2 and weight.numel() > 0
        return MemoryGate(*weight.shape) if fits else MemoryGate(1, 1)


def read_gate_file(folder: Path) -> dict[str, Tensor]:
    """The tensors of the gate that earlier versions saved as a file of its own; none where there is no such file."""
    file = folder / GATE_FILE
    if not file.exists():
        return {}
    verify_checksum(file)
    return {f"gate.{name}": tensor for name, tensor in read_state_dict(file, "save the encoder again").items()}
