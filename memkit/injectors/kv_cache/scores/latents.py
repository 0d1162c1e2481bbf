"""`LatentSimilarity`: frames whose latents look like the newest ones (LongLive-RAG).

LongLive-RAG embeds each latent frame by a trained convolutional autoencoder (1024 numbers) and ranks evicted frames by
cosine to the newest frame. That autoencoder is not part of memkit: give yours as ``embed``. The default, latents pooled
to 4×4 and centred, is our stand-in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from memkit.checks import check_finite, shown
from memkit.errors import InputError
from memkit.injectors.kv_cache.scores.base import Held, Score

LATENTS = "latents"
"""Name of the note: the embedding [B, D] of each frame's latents."""

Embed = Callable[[Tensor], Tensor]
"""Latents [frames, C, H, W] to embeddings [frames, D]."""


def pooled_latents(latents: Float[Tensor, "frames channels height width"]) -> Float[Tensor, "frames dim"]:
    """Latents pooled to at most 4×4, less the mean of each channel over the frame."""
    size = min(4, latents.shape[2]), min(4, latents.shape[3])
    pooled = functional.adaptive_avg_pool2d(latents.float(), size)
    return (pooled - pooled.mean((2, 3), keepdim=True)).flatten(1)


class LatentSimilarity(Score):
    """The cosine of each frame's embedding to that of the newest frame before the chunk, mean over the samples.

    A `Stream` notes the embeddings; in a loop of your own, pass the clean latents of each chunk that was written to
    ``branch.note("latents", positions, score.describe(latents)["latents"])``.

    Args:
        embed: latents [frames, C, H, W] to embeddings [frames, D]; by default `pooled_latents`.
    """

    def __init__(self, embed: Embed = pooled_latents) -> None:
        self.embed = embed

    def describe(self, latents: Float[Tensor, "batch channels frames height width"]) -> dict[str, list[Tensor]]:
        """One embedding [B, D] per frame. Raises `InputError` for latents that are not finite."""
        check_finite("latents", latents, "[B, C, frames, H, W]")
        batch = latents.shape[0]
        flat = self.embed(latents.transpose(1, 2).flatten(0, 1))
        if flat.ndim != 2 or len(flat) != batch * latents.shape[2]:
            raise InputError(f"embed gave {shown(flat)} for {batch * latents.shape[2]} frames; give [frames, D].")
        return {LATENTS: list(flat.float().unflatten(0, (batch, -1)).unbind(1))}

    def score(self, held: Held, positions: Sequence[int], chunk: Sequence[int]) -> Float[Tensor, " frames"]:
        if not positions:
            return torch.zeros(0)
        noted = held.noted(LATENTS, positions)
        newest = held.noted(LATENTS, held.before(chunk)[-1:] or positions[-1:])[0]
        if missing := [p for p, x in zip(positions, noted, strict=True) if x is None]:
            raise InputError(
                f"The latents of the cached frames {missing} were not noted, so LatentSimilarity cannot compare them; "
                'write them by a Stream, or call branch.note("latents", positions, score.describe(x)["latents"]).'
            )
        assert newest is not None
        keys = torch.stack([x for x in noted if x is not None])
        return functional.cosine_similarity(keys, newest[None].to(keys), dim=-1).mean(1).cpu()
