"""ViD-GPT (arXiv 2406.10981) and Ca2-VDM (arXiv 2411.16375): a clean causal prefix, cached once per chunk."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from memkit.generation import synchronous
from recipes.neighbours.neighbour import Method, Neighbour, at_most
from recipes.neighbours.video import Latents, Video


@dataclass(frozen=True)
class VidGPT(Method):
    """ViD-GPT, with the details of its authors' Ca2-VDM: chunk by chunk, each after a cached prefix."""

    chunk: int = 4
    """Latent frames per chunk; 16 in Ca2-VDM."""
    first: int = 5
    """Latent frames of the first chunk, which has no prefix."""
    prefix: int = 9
    """The largest number of cached frames that a chunk sees, the newest ones; 49 in Ca2-VDM."""

    about = Neighbour(
        title="ViD-GPT / Ca2-VDM",
        paper="2411.16375 [P, A, S]",
        visibility="a chunk: itself and up to `prefix` clean frames before it; never later chunks",
        timesteps="0 for the prefix, a common one for the chunk",
        positions="cyclic, modulo prefix + chunk",
        frequencies="–",
        trained="on prefixes of several lengths, with a loss on the chunk only and randomly shifted positions",
        readings=(
            "`first`: how the first chunk is generated without a prefix",
            "Wan has no separate spatial attention, so its view of the last three prefix frames is missing",
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        at_most("first", self.first, self.prefix + self.chunk)

    def sample(self, video: Video) -> Latents:
        """Denoise each chunk beside the cache, then write it in one more pass at timestep 0."""
        ring, sampler, out = self.prefix + self.chunk, video.sampler, []
        starts = [0, *range(self.first, video.frames, self.chunk)]
        with (cache := video.cache(ring)).attach(video.backbone) as attached:
            for start, stop in zip(starts, [*starts[1:], video.frames], strict=True):
                at = [p % ring for p in range(start, stop)]
                past = [p % ring for p in range(max(0, start - self.prefix), start)]
                with attached.chunk(at, cache.branches, past):
                    x = sampler.run(video.noise(range(start, stop)), synchronous(stop - start, sampler.steps))
                with attached.chunk(at, cache.branches, past, write=True), torch.no_grad():
                    sampler.velocity(x, torch.full((stop - start,), sampler.steps))
                out.append(x)
        return torch.cat(out, 2)
