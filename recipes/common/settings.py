"""What the recipes' settings have in common. A recipe's own come after these, some with defaults of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recipes.common.launch import Tracker


@dataclass(frozen=True)
class RunSettings:
    """Of one run."""

    model: str = "tiny"
    """The backbone: "tiny", a diffusers folder, or a hub id."""
    out: Path = Path("runs")
    """Folder of the run: banks, weights, log, results."""
    banks: Path | None = None
    """Folder of the banks, where several runs share them; by default OUT."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Of what is computed in training; what is trained is fp32 always."""
    device: str = "auto"
    """"auto" is CUDA where there is one."""
    threads: int = 0
    """CPU threads; 0 leaves it to torch."""
    shard: bool = False
    """Spread the backbone's weights over the processes (FSDP2), and gradients and moments where it is trained, for a
    model that fits on none of them."""
    seed: int = 42
    """Of training, generation and evaluation."""

    # -- training
    steps: int = 10_000
    """In all; what goes by shares of them, as the cosine, depends on it, so a resumed run keeps it."""
    batch: int = 1
    """Targets a step and process."""
    lr: float = 1e-5
    """Of AdamW, without weight decay."""
    warmup: int = 0
    """Steps."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up; cosine ends at 5 %."""
    clip_norm: float = 1.0
    """Largest norm of a gradient."""
    shift: float = 5.0
    """Of the noise levels in training: σ = s·u / (1 + (s−1)·u)."""
    drop_text: float = 0.1
    """Probability of an empty prompt, which the guidance of the text needs."""
    text_length: int = 512
    """Text tokens in training. The pipeline's padding beyond is one key with a log-weight: the same, but cheaper."""
    checkpointing: bool = False
    """Recompute the backbone's activations in the backward pass instead of keeping them."""
    tracker: Tracker = "none"
    """What gets the log besides log.jsonl."""
    save_every: int = 100
    """Steps between checkpoints."""
    log_every: int = 10
    """Steps between rows of the log."""

    # -- generation
    sampling_steps: int = 50
    """Of the sampler."""
    guidance_scale: float = 5.0
    """Of the text; 1 is none."""

    @property
    def folder(self) -> Path:
        """Of the banks."""
        return self.banks or self.out


RESUME_OVERRIDES = {"out", "banks", "device", "threads", "shard", "tracker", "save_every", "log_every"}
RESUME_OVERRIDES |= {"sampling_steps", "guidance_scale"}
"""Settings that a resumed run of any recipe may change; the others would make another run of it."""
