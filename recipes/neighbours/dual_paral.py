"""DualParal (arXiv 2505.21070): blocks at neighbouring steps, from the noisiest to the cleanest in each sweep."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from memkit.generation import permuted_noise
from recipes.neighbours.neighbour import Method, Neighbour, at_most
from recipes.neighbours.video import Latents, Video


@dataclass(frozen=True)
class DualParal(Method):
    """DualParal, training-free: the queue of blocks, on one device."""

    block: int = 4
    """Latent frames per block; the authors' have 8."""
    neighbours: int = 2
    """Frames of the block before, run again beside the block, and of the block after, as cached keys and values; the
    authors' ``num_cat`` is 8."""

    about = Neighbour(
        title="DualParal",
        paper="2505.21070 [C]",
        visibility="a block of frames: itself, the end of the previous block and the cached beginning of the next one",
        timesteps="one per block of frames, each one step noisier than the previous block's",
        positions="as in the model; attention depends on differences only, so this equals restarting in each block",
        frequencies="–",
        trained="",
        readings=(
            "at the ends of the queue, blocks that have not started or are finished are ignored, or read clean",
            "Euler steps, which need no scheduler per block",
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        at_most("neighbours", self.neighbours, self.block)

    def sample(self, video: Video) -> Latents:
        """All sweeps over the blocks that are in the queue."""
        steps, size, last = video.sampler.steps, self.block, (video.frames - 1) // self.block
        x = permuted_noise(video.noise(range(-self.neighbours, size)), video.frames, size, video.generator())
        with (cache := video.cache(size + 2 * self.neighbours)).attach(video.backbone) as attached:
            for sweep in range(steps + last):
                head, tail = max(0, sweep - steps + 1), min(sweep, last)
                for b in range(tail, head - 1, -1):
                    start, stop = b * size, min((b + 1) * size, video.frames)
                    first, after = max(0, start - self.neighbours), min(stop + self.neighbours, video.frames)
                    taken = torch.full((stop - first,), sweep - b)
                    right = range(stop, after if b < tail else stop)
                    with attached.chunk(range(first, stop), cache.branches, right, write=True):
                        moved = video.sampler.run(x[:, :, first:stop], torch.stack([taken, taken + 1]))
                    x = torch.cat([x[:, :, :start], moved[:, :, start - first :], x[:, :, stop:]], 2)
        return x
