"""`EchoConfig`: the settings of an `EchoMemory`; the rows of Echo-Memory's public checkpoints are `ROWS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from memkit.checks import LAYERS, MOST_FRAMES, WIDTHS, check_fields
from memkit.errors import InputError


@dataclass(frozen=True)
class EchoConfig:
    """Sizes of the backbone, by default those of Wan2.1 T2V 1.3B, and how context frames are placed and read."""

    dim: int = 1536
    """Width of the backbone's hidden states."""
    blocks: int = 30
    """Number of transformer blocks of the backbone."""
    heads: int = 12
    """Number of heads of the action step's attention: that of the backbone."""
    place: Literal["suffix", "prefix"] = "suffix"
    """Temporal positions of K context frames beside F target frames: F…F+K−1, or −K…−1."""
    state_every: int | None = None
    """Blocks 0, ``state_every``, 2·``state_every``, … have a recurrence (causal_v2); None for no block."""
    pack: int = 1
    """Number of context latents that are pooled into one."""
    newest_first: bool = False
    """Whether packed context begins with the newest frame."""
    mix: tuple[float, float, float] = (1.0, 0.0, 0.0)
    """Weights of a pooled group's mean, of the mean over 2×2 cells of it, and of that over 4×4 cells."""
    upsample: Literal["nearest", "bilinear"] = "nearest"
    """How means over cells come back to the size of a frame (our reading)."""
    reweigh: bool = False
    """Whether tokens of context frames are multiplied by K times the softmax, over frames, of the cosine between the
    mean target token and their own mean token. The authors call it a mixture of contexts."""
    norm_eps: float = 1e-5
    """Of the recurrence's layer norm (our reading: that of torch)."""
    qk_eps: float = 1e-6
    """Of the action step's norms of queries and keys (our reading: that of Wan)."""

    def __post_init__(self) -> None:
        check_fields(
            self,
            dim=WIDTHS,
            blocks=LAYERS,
            heads=LAYERS,
            state_every=LAYERS,
            pack=(1, MOST_FRAMES),
            norm_eps=(0, 0.01),
            qk_eps=(0, 0.01),
        )
        if self.dim % self.heads:
            raise InputError(f"A width of {self.dim} does not divide into {self.heads} heads; give another number.")

    @property
    def with_state(self) -> range:
        """Numbers of the blocks with a recurrence."""
        return range(0, self.blocks, self.state_every) if self.state_every else range(0)


def context_k1() -> EchoConfig:
    """One context frame after the target frames."""
    return EchoConfig()


def framepack_len_r8() -> EchoConfig:
    """81 context frames, newest first, in groups of 8: 11 latents, reweighed."""
    return EchoConfig(pack=8, newest_first=True, mix=(0.60, 0.25, 0.15), reweigh=True)


def block_wise_ssm_causal_v2() -> EchoConfig:
    """Five context frames before the target frames, and a recurrence in every fourth block."""
    return EchoConfig(place="prefix", state_every=4)


ROWS: dict[str, Callable[[], EchoConfig]] = {
    "context_k1": context_k1,
    "framepack_len_r8": framepack_len_r8,
    "block_wise_ssm_causal_v2": block_wise_ssm_causal_v2,
}
"""The rows with public checkpoints, by the names of their folders."""
