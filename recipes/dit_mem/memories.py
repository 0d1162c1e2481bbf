"""What a prompt is shown: nothing, the clips that its caption retrieves, or clips drawn by chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from memkit.bank import MemoryBank
from memkit.encoders import Encoder
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
def encode(encoder: Encoder, bank: MemoryBank, clips: Sequence[Sequence[str]]) -> Memory | None:
    """The memory of a batch, one row for each list of clip ids; shorter lists are masked. None where all are empty."""
    most = max(map(len, clips))
    if most == 0:
        return None
    device = next(encoder.parameters()).device
    shape = bank.latents([next(id for row in clips for id in row)]).shape[2:]
    latents = torch.zeros(len(clips), most, *shape, device=device)
    for i, row in enumerate(clips):
        if row:
            latents[i, : len(row)] = bank.latents(list(row))[0].to(device)
    return encoder(latents, torch.tensor([[j < len(row) for j in range(most)] for row in clips], device=device))
