"""The memory of a prompt: none, the clips that its caption retrieves, or random clips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from memkit.banks import MemoryBank, padded_latents
from memkit.encoders import DitMemEncoder, FrequencyEncoder, MemoryEncoder, mix_branches
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
    """The clips of each prompt, best first, without the ids in ``exclude`` and other clips of their sources.

    Raises `InputError` if there is no clip for a prompt.
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
    encoder: MemoryEncoder,
    bank: MemoryBank,
    clips: Sequence[Sequence[str]],
    high: Sequence[Sequence[str]] | None = None,
) -> Memory | None:
    """The memory of a batch, one row per list of clip ids; shorter lists are masked. None if all lists are empty.

    With ``high``, the high tokens come from these clips, pair by pair; clips without a partner are left out. Raises
    `InputError` if the encoder does not have two branches.
    """
    device = next(encoder.parameters()).device
    if high is None:
        count = max(map(len, clips))
        return encoder(*(x.to(device) for x in padded_latents(bank, clips, count))) if count else None
    if not isinstance(encoder, FrequencyEncoder | DitMemEncoder):
        name = type(encoder).__name__
        raise InputError(f"{name} has no low and high tokens to mix; use an encoder with two branches.")
    pairs = [list(zip(a, b, strict=False)) for a, b in zip(clips, high, strict=True)]
    if not (count := max(map(len, pairs))):
        return None
    parts = [[[pair[i] for pair in row] for row in pairs] for i in (0, 1)]
    (low, mask), (other, _) = (padded_latents(bank, part, count) for part in parts)
    return mix_branches(encoder, low.to(device), other.to(device), mask.to(device))
