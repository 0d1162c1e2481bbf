"""What a prompt is shown: nothing, the clips that its caption retrieves, or clips drawn by chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from memkit.banks import MemoryBank
from memkit.encoders import Encoder, PatchEncoder, mix_branches
from memkit.errors import InputError
from memkit.memory import Memory
from memkit.retrievers import Hits, RandomRetriever
from recipes.dit_mem.parts import queries, text_retriever
from recipes.dit_mem.presets import Config

Source = Literal["none", "retrieved", "random"]


def find(
    config: Config,
    bank: MemoryBank,
    prompts: Sequence[str],
    source: Source,
    exclude: Sequence[Sequence[str]] | None = None,
) -> list[Hits]:
    """The clips of each prompt, best first; ``exclude`` has ids that a prompt must not get, with all of their sources.

    Raises `InputError` where a prompt finds no clip at all.
    """
    if source == "none":
        return [Hits([], [])] * len(prompts)
    of = dict(zip(bank.ids, bank.sources, strict=True))
    ids = [list(row) for row in exclude or [[]] * len(prompts)]
    sources = [[name for id in row if (name := of.get(id)) is not None] for row in ids]
    retriever = RandomRetriever(bank, config.seed) if source == "random" else text_retriever(config, bank)
    asked = list(prompts) if source == "random" else queries(config, prompts)
    hits = retriever(asked, k=config.k, exclude=ids, exclude_sources=sources if any(sources) else ())
    for prompt, found in zip(prompts, hits, strict=True):
        if not found.ids:
            raise InputError(f"The bank {bank.path} has no clip for {prompt!r}; add clips, or use --memory none.")
    return hits


@torch.no_grad()
def encode(
    encoder: Encoder, bank: MemoryBank, clips: Sequence[Sequence[str]], high: Sequence[Sequence[str]] | None = None
) -> Memory | None:
    """The memory of a batch, one row for each list of clip ids; shorter lists are masked. None where all are empty.

    With ``high``, the high tokens are those of these clips instead, pair by pair; what has no partner is left out.
    Raises `InputError` where the encoder has no two branches.
    """
    if high is None:
        found = _latents(encoder, bank, clips)
        return None if found is None else encoder(*found)
    if isinstance(encoder, PatchEncoder):
        raise InputError("Patches have no low and high tokens to mix; use an encoder with two branches.")
    pairs = [list(zip(a, b, strict=False)) for a, b in zip(clips, high, strict=True)]
    low, other = (_latents(encoder, bank, [[pair[i] for pair in row] for row in pairs]) for i in (0, 1))
    return None if low is None or other is None else mix_branches(encoder, low[0], *other)


def _latents(encoder: Encoder, bank: MemoryBank, clips: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor] | None:
    """Latents [B,N,C,T,H,W] and mask [B,N]."""
    most = max(map(len, clips))
    if most == 0:
        return None
    device = next(encoder.parameters()).device
    shape = bank.latents([next(id for row in clips for id in row)]).shape[2:]
    latents = torch.zeros(len(clips), most, *shape, device=device)
    for i, row in enumerate(clips):
        if row:
            latents[i, : len(row)] = bank.latents(list(row))[0].to(device)
    return latents, torch.tensor([[j < len(row) for j in range(most)] for row in clips], device=device)
