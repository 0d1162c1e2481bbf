"""What a step of training sees: chunks to make, each with a past of one length."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.bank import MemoryBank
from memkit.cameras import Cameras
from memkit.context_methods import Keeps
from memkit.errors import InputError
from memkit.flow import NUM_TRAIN_TIMESTEPS, release_timesteps
from memkit.history import History
from recipes.memlearner.presets import Config
from recipes.memlearner.videos import chunk_id, frames_id, name_of


@dataclass(frozen=True)
class Batch:
    """Chunks, what noises them, and their past."""

    captions: list[str]
    latents: Float[Tensor, "batch channels frames height width"]
    cameras: Cameras
    history: History
    noise: Float[Tensor, "batch channels frames height width"]
    query_noise: Float[Tensor, "batch channels frames height width"]
    sigma: Float[Tensor, " batch"]


class Target(NamedTuple):
    """Chunk ``index`` of a video, and how many chunks before it are its past."""

    name: str
    index: int
    past: int


class Videos:
    """The long videos of a bank: names, and how many chunks each has."""

    def __init__(self, bank: MemoryBank) -> None:
        self.bank = bank
        if bank.info.get("recipe") != "memlearner":
            raise InputError(f"{bank.path} is no bank of chunks with cameras; see recipes.memlearner.prepare.")
        there = set(bank.ids)
        self.counts = dict.fromkeys((name_of(id) for id in bank.ids), 0)
        for name in self.counts:
            while {chunk_id(name, self.counts[name]), frames_id(name, self.counts[name])} <= there:
                self.counts[name] += 1

    def chunks(self, ids: list[str]) -> tuple[Tensor, Cameras]:
        """Latents [B,C,F,H,W], fp32, and cameras [B,F]."""
        clips = [self.bank.clip(id) for id in ids]
        cameras = [clip.cameras for clip in clips if clip.cameras is not None]
        c2w, lens = (torch.stack([getattr(each, name) for each in cameras]) for name in ("c2w", "intrinsics"))
        return torch.stack([clip.latents for clip in clips]).float(), Cameras(c2w, lens)

    def history(self, targets: list[Target], keeps: Keeps) -> History:
        """The past of targets that have equally much."""
        history, time = History(), 0
        for back in range(targets[0].past, 0, -1):
            named = chunk_id if keeps == "chunks" else frames_id
            latents, at = self.chunks([named(target.name, target.index - back) for target in targets])
            kept = slice(1 if keeps == "frames" and len(history) else 0, None)  # chunks share a frame
            count = latents.shape[2]
            times = range(time, time + count)[kept]
            history.add(latents[:, :, kept], Cameras(at.c2w[:, kept], at.intrinsics[:, kept]), list(times))
            time += count - 1
        return history


class TrainingSet(Videos):
    """Batches of a bank. Each is a function of the seed and the step alone, so a run can go on anywhere, and several
    processes share the batch that one would have."""

    def __init__(self, bank: MemoryBank, config: Config, keeps: Keeps) -> None:
        super().__init__(bank)
        if not any(self.counts.values()):
            raise InputError(f"The bank {bank.path} has no whole chunk; run recipes.memlearner.prepare.")
        self.config = config
        self.keeps: Keeps = keeps
        self._grid = release_timesteps(config.shift) / NUM_TRAIN_TIMESTEPS

    def batch(self, step: int, rank: int = 0, processes: int = 1) -> Batch:
        """The share of one process in the batch of a step, which is that of one process with all of their samples."""
        config, whole = self.config, self.config.batch * processes
        past = self.past(step)
        rngs = [random.Random(f"{config.seed}/{step}/{place}") for place in range(rank, whole, processes)]
        targets = [self._target(past, rng) for rng in rngs]
        ids = [chunk_id(target.name, target.index) for target in targets]
        latents, cameras = self.chunks(ids)
        captions = {id: self.bank.clip(id).caption for id in ids}
        levels = [int((rank + i * processes + rng.random()) / whole * len(self._grid)) for i, rng in enumerate(rngs)]
        noise = [torch.randn(2, *latents[0].shape, generator=_generator(rng)) for rng in rngs]
        return Batch(
            captions=[
                "" if rng.random() < config.drop_text else captions[id] for id, rng in zip(ids, rngs, strict=True)
            ],
            latents=latents,
            cameras=cameras,
            history=self.history(targets, self.keeps),
            noise=torch.stack(noise)[:, 0],
            query_noise=torch.stack(noise)[:, 1],
            sigma=self._grid[levels],
        )

    def past(self, step: int) -> int:
        """Chunks of context of a step: uniform from 0, image-to-video, to the most there are."""
        rng = random.Random(f"{self.config.seed}/{step}")
        drawn = rng.randint(0, min(self.config.chunks, max(self.counts.values()) - 1))
        return 0 if rng.random() < self.config.drop_context else drawn

    def _target(self, past: int, rng: random.Random) -> Target:
        name = rng.choice([name for name, count in self.counts.items() if count > past])
        return Target(name, rng.randrange(past, self.counts[name]), past)


def _generator(rng: random.Random) -> torch.Generator:
    return torch.Generator().manual_seed(rng.getrandbits(63))
