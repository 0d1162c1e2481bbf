"""What a step of training sees: targets, and for each the clips that its caption retrieves, its own source left out."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from memkit.bank import MemoryBank
from memkit.errors import InputError
from memkit.flow import NUM_TRAIN_TIMESTEPS, release_timesteps
from recipes.dit_mem.parts import queries, text_retriever
from recipes.dit_mem.presets import Config


@dataclass(frozen=True)
class Batch:
    """Targets, the memory of each (``mask`` is True where there is a clip), and what noises them."""

    captions: list[str]
    latents: Float[Tensor, "batch channels frames height width"]
    memory: Float[Tensor, "batch k channels frames height width"]
    mask: Bool[Tensor, "batch k"]
    noise: Float[Tensor, "batch channels frames height width"]
    sigma: Float[Tensor, " batch"]


class TrainingSet:
    """Batches of a bank. Each is a function of the seed, the rank and the step alone, so a run can go on anywhere.

    All retrieval is done once, here. ``short`` counts the targets for which fewer than k clips were found.
    """

    def __init__(self, bank: MemoryBank, config: Config) -> None:
        if len(bank) < 2:
            raise InputError(f"The bank {bank.path} has {len(bank)} clips; training needs a target and others.")
        if config.pool < config.k:
            raise InputError(f"pool is {config.pool}, less than k, {config.k}; give k or more.")
        self.bank = bank
        self.config = config
        self.ids, self.captions = bank.ids, bank.captions
        sources = [[] if source is None else [source] for source in bank.sources]
        hits = text_retriever(config, bank)(
            queries(config, self.captions),
            k=config.pool,
            exclude=[[id] for id in self.ids],
            exclude_sources=sources if any(sources) else (),
        )
        self.hits = [found.ids for found in hits]
        self.short = sum(len(found) < config.k for found in self.hits)
        if not any(self.hits):
            raise InputError(
                f"No clip of {bank.path} has company: all are of one source; give the clips other sources."
            )
        self._grid = release_timesteps(config.shift) / NUM_TRAIN_TIMESTEPS

    def batch(self, step: int, rank: int = 0) -> Batch:
        """The batch of one step on one process."""
        config = self.config
        rng = random.Random(f"{config.seed}/{rank}/{step}")
        targets = [rng.randrange(len(self.ids)) for _ in range(config.batch)]
        memory = [self._memory(target, step, rng) for target in targets]
        # one of the 1000 noise levels in each of `batch` equal strata: with a batch of 1 the release's uniform draw
        level = [int((i + rng.random()) / config.batch * NUM_TRAIN_TIMESTEPS) for i in range(config.batch)]
        generator = torch.Generator().manual_seed(rng.getrandbits(63))
        captions = ["" if rng.random() < config.drop_text else self.captions[target] for target in targets]
        latents = self.bank.latents([self.ids[target] for target in targets])[0].float()
        clips = latents.new_zeros(config.batch, config.k, *latents.shape[1:])
        for i, ids in enumerate(memory):
            if ids:
                clips[i, : len(ids)] = self.bank.latents(ids)[0]
        return Batch(
            captions=captions,
            latents=latents,
            memory=clips,
            mask=torch.tensor([[j < len(ids) for j in range(config.k)] for ids in memory]),
            noise=torch.randn(latents.shape, generator=generator),
            sigma=self._grid[level],
        )

    def _memory(self, target: int, step: int, rng: random.Random) -> list[str]:
        """At most k clips in random order."""
        config = self.config
        pool = self.hits[target]
        ids = rng.sample(pool, min(config.k, len(pool)))
        if rng.random() < config.ease * min(1.0, max(0.0, 2 - 3 * step / config.steps)):
            return [self.ids[target]]
        kept = [id for id in ids if rng.random() >= config.drop_clip] or ids[:1]
        rng.shuffle(kept)
        return kept
