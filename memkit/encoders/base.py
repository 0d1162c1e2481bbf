"""`MemoryEncoder`: the base class of all encoders, which contain the gate that they were trained with."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn

from memkit.encoders.gate import GATE_FILE, MemoryGate
from memkit.memory import Memory
from memkit.pretrained import CONFIG_FILE, WEIGHTS_FILE, Pretrained

EncoderType = TypeVar("EncoderType", bound="MemoryEncoder")


class MemoryEncoder(Pretrained, nn.Module):
    """A module that maps the latents of memory clips [B, N, C, T, H, W] to `Memory`.

    ``gate`` is None or a `MemoryGate`, a submodule that is trained, moved, saved and loaded with the encoder. It is
    saved as ``gate.safetensors`` beside ``model.safetensors``. Subclasses end their ``forward`` with
    ``return self.with_gate(memory)``.
    """

    files = (CONFIG_FILE, WEIGHTS_FILE, GATE_FILE)
    gate: MemoryGate | None

    def __init__(self) -> None:
        super().__init__()
        self.gate = None

    def with_gate(self, memory: Memory) -> Memory:
        """The same memory with the values of the encoder's gate, if it has one."""
        return memory if self.gate is None else replace(memory, gate=self.gate())

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Like `Pretrained.save_pretrained`, with the gate in a separate file, which is deleted if there is no gate."""
        saved = super().save_pretrained(folder)
        if self.gate is None:
            (saved / GATE_FILE).unlink(missing_ok=True)
        else:
            self.gate.save(saved)
        return saved

    @classmethod
    def _load(cls: type[EncoderType], folder: Path) -> EncoderType:
        encoder = super()._load(folder)
        encoder.gate = MemoryGate.load(folder)
        return encoder

    def _tensors(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in super()._tensors().items() if not name.startswith("gate.")}
