"""``memkit plan``: what a model with memory needs, computed from its sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Model = Literal[
    "wan2.1-t2v-1.3b", "wan2.1-t2v-14b", "wan2.1-i2v-14b", "wan2.2-ti2v-5b", "wan2.2-t2v-a14b", "wan2.2-i2v-a14b"
]


@dataclass(frozen=True)
class Plan:
    """Print the bytes and the time that a model with memory needs. Nothing is loaded or measured: sizes say all."""

    model: Model = "wan2.1-t2v-1.3b"
    """A published Wan."""
    frames: int | None = None
    """Number of video frames, by default those that the model was trained with; so are height and width."""
    height: int | None = None
    """Height in pixels."""
    width: int | None = None
    """Width in pixels."""
    memory: int = 5
    """Reference clips per prompt, of the length and size of the video, encoded by FrequencyEncoder."""
    cached: int = 0
    """Latent frames in a KV cache; the video is then generated in chunks."""
    chunk: int = 3
    """Latent frames per chunk, with a KV cache."""
    steps: int = 50
    """Number of denoising steps."""
    guidance: bool = True
    """Whether classifier-free guidance runs the model twice per step."""
    batch: int = 1
    """Number of videos at once."""
    tflops: float = 400.0
    """Operations per second that the device achieves, in 10¹²: about 400 for an H100 in bf16, at 40 % of its peak."""

    def run(self) -> int:
        from memkit.cli.plan_table import plan_lines

        print("\n".join(plan_lines(self)))
        return 0
