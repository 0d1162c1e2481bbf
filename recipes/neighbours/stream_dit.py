"""StreamDiT (arXiv 2507.03745): a buffer of chunks at rising noise levels, whose head leaves when it is clean."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from memkit.errors import InputError
from memkit.injectors import FrameVisibility, shifted_blocks
from recipes.neighbours.neighbour import Method, Neighbour
from recipes.neighbours.video import Latents, Video


@dataclass(frozen=True)
class StreamDiT(Method):
    """StreamDiT: the partitioned buffer, and the attention in windows that shift from layer to layer."""

    chunk: int = 1
    """Latent frames per chunk, c; the authors' teacher has 2."""
    chunks: int = 4
    """Chunks in the buffer, N; 8 in the authors' teacher. Each call takes steps / N micro-steps per chunk."""
    references: int = 0
    """Clean frames before the buffer, K."""
    window: int = 2
    """Latent frames that see each other; in every other layer, windows are shifted by half of that."""

    about = Neighbour(
        title="StreamDiT",
        paper="2507.03745 [P]",
        visibility="frames of its window; in every other layer, windows are shifted by half and wrap around",
        timesteps="each chunk of the buffer is (steps / chunks) steps noisier than the previous one; 0 for references",
        positions="restart at 0 in each buffer",
        frequencies="–",
        trained="the whole model, with one timestep per chunk from a range of its own, and distillation",
        readings=(
            "positions start at 0 in each buffer; `references`: our notes say that their number is set to 0",
            "the buffer fills up chunk by chunk at the start and empties at the end",
            "`window`: its size, and that it covers frames but not space",
        ),
    )

    def sample(self, video: Video) -> Latents:
        """Push noise, take the micro-steps, pop the chunk that is clean."""
        noise, steps, half = video.noise(), video.sampler.steps, self.window // 2
        if steps % self.chunks:
            raise InputError(f"{steps} steps do not divide into {self.chunks} partitions; give a multiple of them.")
        out = x = noise[:, :, :0]
        taken, pushed = torch.zeros(0, dtype=torch.long), 0
        while out.shape[2] < video.frames:
            seen, new = out[:, :, max(0, out.shape[2] - self.references) :], noise[:, :, pushed : pushed + self.chunk]
            taken = torch.cat([torch.full((seen.shape[2],), steps), taken, torch.zeros(new.shape[2], dtype=torch.long)])
            schedule = (taken + torch.arange(steps // self.chunks + 1)[:, None]).clamp(max=steps)
            with FrameVisibility(shifted_blocks(self.window), shifted_blocks(self.window, half)).attach(video.backbone):
                x = video.sampler.run(torch.cat([seen, x, new], 2), schedule)[:, :, seen.shape[2] :]
            taken, pushed = schedule[-1, seen.shape[2] :], pushed + self.chunk
            out = torch.cat([out, x[:, :, taken == steps]], 2)
            x, taken = x[:, :, taken < steps], taken[taken < steps]
        return out
