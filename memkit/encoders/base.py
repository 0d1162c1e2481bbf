"""`MemoryEncoder`: the base class of all encoders, which contain the gate that they were trained with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from jaxtyping import Bool, Float
from torch import Tensor, nn

from memkit.encoders.gate import GATE_FILE, MemoryGate, read_gate_file
from memkit.errors import InputError
from memkit.files.atomic import writing
from memkit.memory import Memory
from memkit.pretrained import CONFIG_FILE, WEIGHTS_FILE, Pretrained

GATE_KEY = "_gate"
"""In the weights' header: whether the encoder has a gate. Earlier versions do not state it: a file of its own does."""

EncoderType = TypeVar("EncoderType", bound="MemoryEncoder")


class MemoryEncoder(Pretrained, nn.Module):
    """A module that maps the latents of memory clips [B, N, C, T, H, W] to `Memory`.

    ``gate`` is None or a `MemoryGate`, a submodule that is trained, moved, saved and loaded with the encoder.
    Subclasses end their ``forward`` with ``return self.with_gate(memory)``.
    """

    files = (CONFIG_FILE, WEIGHTS_FILE, GATE_FILE)
    gate: MemoryGate | None

    def __init__(self) -> None:
        super().__init__()
        self.gate = None

    def with_gate(self, memory: Memory) -> Memory:
        """The same memory with the values of the encoder's gate, if it has one."""
        return memory if self.gate is None else replace(memory, gate=self.gate())

    def clip_features(
        self, clips: Float[Tensor, "clips channels time height width"]
    ) -> Float[Tensor, "clips features size"]:
        """What the memory needs of each clip, by itself: `memkit.banks.FeatureBank` keeps it.

        Raises:
            InputError: the encoder does not define it, or latents have another shape.
        """
        raise InputError(f"{type(self).__name__} has no features per clip; define clip_features() and from_features().")

    def from_features(
        self, features: Float[Tensor, "batch clips features size"], mask: Bool[Tensor, "batch clips"] | None = None
    ) -> Memory:
        """The memory of clips by their `clip_features`, which ``forward`` gives for their latents.

        Raises:
            InputError: the encoder does not define it.
        """
        raise InputError(f"{type(self).__name__} has no features per clip; define clip_features() and from_features().")

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Like `Pretrained.save_pretrained`; ``gate.safetensors``, as earlier versions wrote it, is deleted."""
        saved = super().save_pretrained(folder)
        with writing(saved / GATE_FILE):
            (saved / GATE_FILE).unlink(missing_ok=True)
        return saved

    @classmethod
    def _build(
        cls: type[EncoderType], config: Any, tensors: dict[str, Tensor], saved_with: Mapping[str, Any], folder: Path
    ) -> EncoderType:
        encoder = super()._build(config, tensors, saved_with, folder)
        if GATE_KEY not in saved_with:
            tensors |= read_gate_file(folder)
        if "gate.weight" in tensors:
            encoder.gate = MemoryGate.sized_as(tensors["gate.weight"])
        return encoder

    def _marks(self) -> dict[str, Any]:
        return {GATE_KEY: self.gate is not None}
