"""Batches of training: chunks to generate, and their past, which has the same length in all samples of a step."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.banks import MemoryBank
from memkit.cameras import Cameras
from memkit.errors import InputError
from memkit.flow import NUM_TRAIN_TIMESTEPS, release_timesteps
from memkit.rollout import History, Selection
from memkit.rollout.base import Keeps
from memkit.rollout.long_videos import LongVideos, chunk_id
from memkit.rollout.noisy import noisy_selection
from memkit.training import generator_of
from recipes.memlearner.presets import Annotation, Config


@dataclass(frozen=True)
class Batch:
    """Chunks with their noise and their past."""

    captions: list[str]
    latents: Float[Tensor, "batch channels frames height width"]
    cameras: Cameras | None
    annotation: Annotation
    """Kind of the poses."""
    history: History
    noise: Float[Tensor, "batch channels frames height width"]
    query_noise: Float[Tensor, "batch channels frames height width"]
    sigma: Float[Tensor, " batch"]
    context_seeds: list[int]
    """Seeds of the noise on the context frames, if there is any."""


class Videos(LongVideos):
    """The long videos of a bank of this recipe, and the kind of their poses."""

    def __init__(self, bank: MemoryBank) -> None:
        if bank.info.get("recipe") != "memlearner":
            raise InputError(f"{bank.path} is no bank of chunks with cameras; see recipes.memlearner.prepare.")
        self.annotation: Annotation = bank.info.get("poses", "exact")
        super().__init__(bank, posed=self.annotation != "none")


class TrainingSet:
    """Batches of banks. A batch depends on the seed and the step only, so that a run can resume at any step and several
    processes can split it. It comes from one bank, drawn in proportion to the number of its videos.
    """

    def __init__(self, banks: Sequence[MemoryBank], config: Config, keeps: Keeps) -> None:
        self.videos = [Videos(bank) for bank in banks]
        for videos in self.videos:
            if not any(videos.counts.values()):
                raise InputError(f"The bank {videos.bank.path} has no whole chunk; run recipes.memlearner.prepare.")
            if videos.annotation not in config.annotations:
                raise InputError(f"{videos.bank.path} has {videos.annotation!r} poses; add this kind to --annotations.")
            if videos.annotation == "none" and config.method == "cam":
                raise InputError(f"{videos.bank.path} has no poses, by which the method 'cam' finds frames.")
        self.config = config
        self.keeps: Keeps = keeps
        self._grid = release_timesteps(config.shift) / NUM_TRAIN_TIMESTEPS

    def batch(self, step: int, rank: int = 0, processes: int = 1) -> Batch:
        """The samples of one process in the batch of a step; the whole batch depends only on the number of samples."""
        config, whole = self.config, self.config.batch * processes
        videos, past = self.source(step), self.past(step)
        rngs = [random.Random(f"{config.seed}/{step}/{place}") for place in range(rank, whole, processes)]
        targets = [videos.draw(past, rng) for rng in rngs]
        ids = [chunk_id(target.name, target.index) for target in targets]
        latents, cameras = videos.chunks(ids)
        captions = {id: videos.bank.clip(id).caption for id in ids}
        levels = [int((rank + i * processes + rng.random()) / whole * len(self._grid)) for i, rng in enumerate(rngs)]
        noise = [torch.randn(2, *latents[0].shape, generator=generator_of(rng)) for rng in rngs]
        return Batch(
            captions=[
                "" if rng.random() < config.drop_text else captions[id] for id, rng in zip(ids, rngs, strict=True)
            ],
            latents=latents,
            cameras=cameras,
            annotation=videos.annotation,
            history=videos.history(targets, self.keeps),
            noise=torch.stack(noise)[:, 0],
            query_noise=torch.stack(noise)[:, 1],
            sigma=self._grid[levels],
            context_seeds=[rng.getrandbits(63) for rng in rngs],
        )

    def source(self, step: int) -> Videos:
        """The videos of the bank that a step is on."""
        rng = random.Random(f"{self.config.seed}/{step}/bank")
        return rng.choices(self.videos, [len(videos.counts) for videos in self.videos])[0]

    def past(self, step: int) -> int:
        """Number of chunks of context in a step: uniform, from 0 (image-to-video) to the largest available number."""
        rng = random.Random(f"{self.config.seed}/{step}")
        drawn = rng.randint(0, min(self.config.chunks, max(self.source(step).counts.values()) - 1))
        return 0 if rng.random() < self.config.drop_context else drawn

    def noisy(self, selection: Selection, seeds: Sequence[int]) -> tuple[Selection, Float[Tensor, "batch k"]]:
        """Context frames with independent noise levels, and their timesteps (DFoT, arXiv 2502.06764)."""
        return noisy_selection(selection, seeds, self._grid)
