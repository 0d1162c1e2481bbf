"""Batches of training, chunks with the single frames of the chunk before; and the method of a run."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.backbones import WanBackbone
from memkit.banks import MemoryBank
from memkit.cameras import Cameras
from memkit.errors import InputError
from memkit.flow import NUM_TRAIN_TIMESTEPS, release_timesteps
from memkit.injectors.echo_memory import ROWS, EchoMemory
from memkit.rollout import LAYOUTS, EchoContext, History
from memkit.rollout.long_videos import LongVideos, chunk_id, frames_id
from memkit.rollout.saved import load_parts
from memkit.training import generator_of
from recipes.echo_memory.presets import Config


def make_method(config: Config, backbone: WanBackbone, training: bool = False) -> EchoContext:
    """A new method in fp32 on the device of the backbone, initialised from the seed."""
    layout, model = replace(LAYOUTS[config.row], frames=config.frames), backbone.transformer.config
    if training and config.context_poses != "row":
        layout = replace(layout, context_poses=config.context_poses)
    sizes = {"dim": backbone.width, "blocks": model.num_layers, "heads": model.num_attention_heads}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return EchoContext(EchoMemory(replace(ROWS[config.row](), **sizes)), layout).to(backbone.device)


def load_method(config: Config, backbone: WanBackbone, folder: Path) -> EchoContext:
    """Load a trained method. Raises `InputError` if ``folder`` has another one."""
    load_parts(method := make_method(config, backbone), folder)
    return method


@dataclass(frozen=True)
class Batch:
    """Chunks with their noise and their past."""

    captions: list[str]
    latents: Float[Tensor, "batch channels frames height width"]
    cameras: Cameras
    history: History
    noise: Float[Tensor, "batch channels frames height width"]
    sigma: Float[Tensor, " batch"]


class TrainingSet:
    """Batches of a bank, which depend on the seed and the step only."""

    def __init__(self, bank: MemoryBank, config: Config) -> None:
        if bank.info.get("recipe") != "echo_memory":
            raise InputError(f"{bank.path} is no bank of chunks and single frames; see recipes.echo_memory.prepare.")
        self.videos, self.config = LongVideos(bank), config
        if max(self.videos.counts.values(), default=0) < 2:
            raise InputError(f"{bank.path} has no video of two chunks; run recipes.echo_memory.prepare.")
        self._grid = release_timesteps(config.shift) / NUM_TRAIN_TIMESTEPS

    def batch(self, step: int, rank: int = 0, processes: int = 1) -> Batch:
        """The samples of one process in the batch of a step. All samples of a step have context, or none."""
        config, whole = self.config, self.config.batch * processes
        rngs = [random.Random(f"{config.seed}/{step}/{place}") for place in range(rank, whole, processes)]
        targets = [self.videos.draw(1, rng) for rng in rngs]
        ids = [chunk_id(target.name, target.index) for target in targets]
        latents, cameras = self.videos.chunks(ids)
        assert cameras is not None
        history = History()
        if random.Random(f"{config.seed}/{step}").random() >= config.drop_context:
            before, at = self.videos.chunks([frames_id(target.name, target.index - 1) for target in targets])
            history.add(before, at, list(range(before.shape[2])))
        captions = [self.videos.bank.clip(id).caption for id in ids]
        texts = ["" if rng.random() < config.drop_text else text for text, rng in zip(captions, rngs, strict=True)]
        levels = [int((rank + i * processes + rng.random()) / whole * len(self._grid)) for i, rng in enumerate(rngs)]
        noise = torch.stack([torch.randn(latents[0].shape, generator=generator_of(rng)) for rng in rngs])
        return Batch(texts, latents, cameras, history, noise, self._grid[levels])
