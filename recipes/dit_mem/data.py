"""Batches of training: targets, each with the clips of other sources that its caption retrieves."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from memkit.banks import MemoryBank, padded_latents
from memkit.errors import InputError
from memkit.flow import NUM_TRAIN_TIMESTEPS, release_timesteps
from recipes.dit_mem.parts import queries, text_retriever
from recipes.dit_mem.presets import Config


@dataclass(frozen=True)
class Samples:
    """Clips to denoise, with their captions, noise and noise levels."""

    captions: list[str]
    latents: Float[Tensor, "batch channels frames height width"]
    noise: Float[Tensor, "batch channels frames height width"]
    sigma: Float[Tensor, " batch"]
    conditioning_frames: int
    """Number of conditioning frames at the start of each clip, in latent frames."""

    def part(self, some: slice) -> Samples:
        """A slice of the samples, without memory."""
        parts = (x[some] for x in (self.latents, self.noise, self.sigma))
        return Samples(self.captions[some], *parts, self.conditioning_frames)


@dataclass(frozen=True)
class Batch(Samples):
    """Samples with the memory of each; ``mask`` is True where there is a clip."""

    memory: Float[Tensor, "batch k channels frames height width"]
    mask: Bool[Tensor, "batch k"]
    memory_ids: list[list[str]]


def draw_noise(latents: Tensor, seeds: Sequence[int], levels: Sequence[int], shift: float) -> tuple[Tensor, Tensor]:
    """Noise of the shape of ``latents`` [B,C,T,H,W] from one seed per sample, and the sigmas [B] of ``levels``, indices
    into the 1000 noise levels of training from the highest on."""
    noise = [torch.randn(latents[0].shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(noise), release_timesteps(shift)[list(levels)] / NUM_TRAIN_TIMESTEPS


def draw_level(rng: random.Random, place: int, of: int) -> int:
    """Draw one of the 1000 noise levels, stratified over the ``of`` samples of a batch."""
    return int((place + rng.random()) / of * NUM_TRAIN_TIMESTEPS)


def draw_conditioning_frames(config: Config, step: int) -> int:
    """Number of conditioning frames of all samples of a step: 1 with probability ``image_cond_prob``, else 0."""
    return int(random.Random(f"{config.seed}/{step}").random() < config.image_cond_prob)


class _Drawn(NamedTuple):
    """A sample before its clips are read: target, caption, ids of memory clips, noise level, seed of the noise."""

    target: int
    caption: str
    memory: list[str]
    level: int
    noise: int


class TrainingSet:
    """Batches of a bank. A batch depends on the seed and the step only, so that a run can resume at any step and
    several processes can split it.

    Clips are retrieved once, at the start. ``short`` counts the targets with fewer than k clips.
    """

    def __init__(self, bank: MemoryBank, config: Config) -> None:
        if len(bank) < 2:
            raise InputError(f"The bank {bank.path} has {len(bank)} clips; training needs a target and others.")
        if 0 < config.pool < config.k:
            raise InputError(f"pool is {config.pool}, less than k, {config.k}; give k or more, or 0.")
        self.bank = bank
        self.config = config
        self.ids, self.captions = bank.ids, bank.captions
        sources = [[] if source is None else [source] for source in bank.sources]
        hits = text_retriever(config, bank)(
            queries(config, self.captions),
            k=config.pool or config.k,
            exclude=[[id] for id in self.ids],
            exclude_sources=sources if any(sources) else (),
        )
        self.hits = [found.ids for found in hits]
        self.short = sum(len(found) < config.k for found in self.hits)
        if not any(self.hits):
            raise InputError(f"All clips of {bank.path} have the same source; give them different sources.")

    def batch(self, step: int, rank: int = 0, processes: int = 1) -> Batch:
        """The samples of one process in the batch of a step; the whole batch depends only on the number of samples."""
        config, whole = self.config, self.config.batch * processes
        rows = [self._draw(step, place, whole) for place in range(rank, whole, processes)]
        latents = self.bank.latents([self.ids[row.target] for row in rows])[0].float()
        memory_ids = [row.memory for row in rows]
        memory, mask = padded_latents(self.bank, memory_ids, config.k)
        noise, sigma = draw_noise(latents, [row.noise for row in rows], [row.level for row in rows], config.shift)
        return Batch(
            captions=[row.caption for row in rows],
            latents=latents,
            memory=memory,
            mask=mask,
            memory_ids=memory_ids,
            noise=noise,
            sigma=sigma,
            conditioning_frames=draw_conditioning_frames(config, step),
        )

    def _draw(self, step: int, place: int, of: int) -> _Drawn:
        """Draw sample ``place`` of a batch of ``of`` samples."""
        rng = random.Random(f"{self.config.seed}/{step}/{place}")
        target = rng.randrange(len(self.ids))
        return _Drawn(
            target=target,
            caption="" if rng.random() < self.config.drop_text else self.captions[target],
            memory=self._memory(target, step, rng),
            level=draw_level(rng, place, of),
            noise=rng.getrandbits(63),
        )

    def _memory(self, target: int, step: int, rng: random.Random) -> list[str]:
        """Draw at most k clips, in random order."""
        config = self.config
        if not config.pool:
            return [self.ids[target]]
        pool = self.hits[target]
        ids = rng.sample(pool, min(config.k, len(pool)))
        if rng.random() < config.self_memory_prob * min(1.0, max(0.0, (5 - 10 * step / config.steps) / 3)):
            return [self.ids[target]]
        kept = [id for id in ids if rng.random() >= config.drop_clip] or ids[:1]
        rng.shuffle(kept)
        return kept
