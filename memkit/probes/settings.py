"""`ProbeSettings`: the model of all probes, and the budget of training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import WanTransformer3DModel

from memkit.errors import InputError
from memkit.probes.patterns import CHANNELS, TEXT_DIM


@dataclass(frozen=True)
class ProbeSettings:
    """The model of all probes, and the budget of training: the same for all mechanisms."""

    blocks: int = 4
    """Transformer blocks, of width 96 by default: 0.53 M parameters."""
    heads: int = 4
    head_dim: int = 24
    pretrain_steps: int | None = None
    """Steps of the base, which sees everything in its sequence; by default those of the probe."""
    steps: int | None = None
    """Steps of each mechanism, from the base; by default those of the probe."""
    batch: int = 32
    lr: float = 2e-3
    warmup: int = 50
    """Steps over which the learning rate rises; then it stays."""
    shift: float = 5.0
    """Shift of the noise levels towards 1; an answer is read from pure noise."""
    samples: int = 256
    """Test samples."""
    base_seed: int = 0
    """Seed of the base, which all mechanisms and seeds of a probe share."""

    def __post_init__(self) -> None:
        if not (0 < self.lr < math.inf and 0 < self.shift < math.inf and self.warmup >= 0):
            raise InputError(f"{self}: lr and shift are positive and finite, and warmup 0 or more.")
        if (
            min(self.pretrain_steps or 0, self.steps or 0) < 0
            or min(self.batch, self.samples, self.blocks, self.heads) < 1
        ):
            raise InputError(f"{self}: steps are 0 or more, and batch, samples, blocks and heads 1 or more.")

    def model(self, seed: int) -> WanTransformer3DModel:
        """A stock Wan with weights drawn from a seed; the global random state stays as it was."""
        sizes: dict[str, Any] = {
            "num_attention_heads": self.heads,
            "attention_head_dim": self.head_dim,
            "ffn_dim": 2 * self.heads * self.head_dim,
            "text_dim": TEXT_DIM,
            "num_layers": self.blocks,
            "in_channels": CHANNELS,
            "out_channels": CHANNELS,
            "freq_dim": 32,
        }
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            return WanTransformer3DModel(**sizes)
