"""Self-attention with memory where several processes share the tokens of one video (diffusers' context parallelism).

With Ulysses attention, each process has a run of the tokens for everything but the self-attention, in which it has all
tokens for some of the heads. Memory tokens are few, so each process has them all: it projects them as a single process
does, and takes its heads of their keys and values. Each query then sees each memory token exactly once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from diffusers import WanTransformer3DModel
from diffusers.models.attention_dispatch import SeqAllToAllDim
from jaxtyping import Float
from torch import Tensor

from memkit.errors import MemkitError


class HeadParallel(NamedTuple):
    """The processes that share a video: their group, how many they are, and which one this is."""

    group: Any
    count: int
    rank: int

    @classmethod
    def of(cls, config: Any) -> HeadParallel | None:
        """By the parallel config of an attention processor; None where it has none."""
        parallel = getattr(config, "context_parallel_config", None)
        if parallel is None:
            return None
        mesh = parallel._ulysses_mesh
        return cls(mesh.get_group(), mesh.size(), mesh.get_local_rank())

    def all_tokens(self, x: Float[Tensor, "batch own heads dim"]) -> Float[Tensor, "batch tokens own_heads dim"]:
        """From this process's tokens with all heads to all tokens with this process's heads."""
        return SeqAllToAllDim.apply(self.group, x, 2, 1)

    def all_heads(self, x: Float[Tensor, "batch tokens own_heads dim"]) -> Float[Tensor, "batch own heads dim"]:
        """The inverse of `all_tokens`."""
        return SeqAllToAllDim.apply(self.group, x, 1, 2)

    def own_heads(self, x: Float[Tensor, "batch memory heads dim"]) -> Float[Tensor, "batch memory own_heads dim"]:
        """This process's heads of what all processes have."""
        return x.chunk(self.count, dim=2)[self.rank]


def unsupported(model: Any, config: Any) -> str | None:
    """Why memory cannot be shared out in this kind of parallelism; None where it can."""
    parallel = getattr(config, "context_parallel_config", None)
    if parallel is None or getattr(config, "tensor_parallel_config", None) is not None:
        return "memory needs context parallelism alone"
    if type(model) is not WanTransformer3DModel:
        return f"memory is shared out for Wan, and this is {type(model).__name__}"
    if parallel.ring_degree > 1 or parallel.ulysses_anything or parallel.ring_anything:
        return "memory needs ContextParallelConfig(ulysses_degree=...) alone"
    if rest := model.config.num_attention_heads % parallel.ulysses_degree:
        return f"{model.config.num_attention_heads} heads cannot be shared by {parallel.ulysses_degree} ({rest} left)"
    return None


def check_one_timestep(temb: Tensor) -> None:
    """Raise `MemkitError` where each token has its own timestep: a process has those of its tokens alone."""
    if temb.ndim == 4:
        raise MemkitError(
            "Each token has its own timestep (Wan2.2 TI2V), of which a process has its part alone, while memory takes "
            "that of the last token; run the model without context parallelism."
        )
