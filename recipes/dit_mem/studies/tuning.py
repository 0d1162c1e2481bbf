"""Train all weights of the backbone, without memory, by flow matching: what the encoder is compared with."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memkit.backbones import WanBackbone
from memkit.banks import MemoryBank
from memkit.errors import InputError
from memkit.flow import NUM_TRAIN_TIMESTEPS, add_noise, flow_loss, release_timesteps
from memkit.generation import TextCache, conditioning_frames
from recipes.common.checkpoint import load_checkpoint, save_checkpoint
from recipes.common.run_log import RunLog, by_noise_level, check_disk
from recipes.common.training import adamw, prepared, set_learning_rate
from recipes.dit_mem.presets import Config
from recipes.dit_mem.step import by_expert, weighted_mean
from recipes.dit_mem.train import learning_rate


class Samples(NamedTuple):
    """Clips and what noises them."""

    captions: list[str]
    latents: Float[Tensor, "batch channels frames height width"]
    noise: Float[Tensor, "batch channels frames height width"]
    sigma: Float[Tensor, " batch"]
    conditioning_frames: int = 0
    """First latent frames that are given."""

    def part(self, some: slice) -> Samples:
        """Some of them."""
        return Samples(
            self.captions[some], self.latents[some], self.noise[some], self.sigma[some], self.conditioning_frames
        )


def noised(
    captions: list[str],
    latents: Float[Tensor, "batch channels frames height width"],
    seeds: Sequence[int],
    levels: Sequence[int],
    shift: float,
) -> Samples:
    """The clips with noise of those seeds, at those of the 1000 levels of training, counted from the highest."""
    noise = [torch.randn(latents[0].shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    sigma = release_timesteps(shift)[list(levels)] / NUM_TRAIN_TIMESTEPS
    return Samples(captions, latents, torch.stack(noise), sigma)


class Clips:
    """Batches of some clips of a bank, each a function of the seed and the step alone."""

    def __init__(self, bank: MemoryBank, ids: Sequence[str], config: Config) -> None:
        self.bank, self.ids, self.config = bank, list(ids), config
        self._captions = dict(zip(bank.ids, bank.captions, strict=True))

    def batch(self, step: int) -> Samples:
        """Clips drawn anew; one noise level in each of as many equal strata as there are samples."""
        config = self.config
        rngs = [random.Random(f"full/{config.seed}/{step}/{place}") for place in range(config.batch)]
        ids = [rng.choice(self.ids) for rng in rngs]
        blank = [rng.random() < config.drop_text for rng in rngs]
        levels = [int((place + rng.random()) / config.batch * NUM_TRAIN_TIMESTEPS) for place, rng in enumerate(rngs)]
        samples = noised(
            ["" if no_text else self._captions[id] for id, no_text in zip(ids, blank, strict=True)],
            self.bank.latents(ids)[0].float(),
            [rng.getrandbits(63) for rng in rngs],
            levels,
            config.shift,
        )
        return samples._replace(
            conditioning_frames=int(random.Random(f"{config.seed}/{step}").random() < config.image_cond_prob)
        )


def flow_losses(backbone: WanBackbone, text: TextCache, samples: Samples) -> Float[Tensor, " batch"]:
    """Flow-matching loss of each sample, without memory, by the expert that its noise level belongs to.

    It is over the frames that are not given.
    """
    latents, noise, sigma = (x.to(backbone.device) for x in (samples.latents, samples.noise, samples.sigma))
    known = samples.conditioning_frames
    noisy, timestep = add_noise(latents, noise, sigma), sigma * NUM_TRAIN_TIMESTEPS
    words, losses = text(samples.captions).to(latents), torch.zeros_like(sigma)
    for expert, index, _ in by_expert(backbone, timestep):
        with conditioning_frames(latents[index, :, :known], expert) if known else nullcontext():
            velocity = expert(noisy[index], timestep[index], words[index], return_dict=False)[0]
        wanted = (x[:, :, known:] for x in (velocity, latents[index], noise[index]))
        losses = losses.index_put((index,), flow_loss(*wanted))
    return losses


class Tuning:
    """A backbone in training, which goes on where the checkpoint of its folder is.

    ``run`` is what must not have changed since; see `recipes.common.checkpoint.run_settings`. ``kept`` are figures by
    step that each checkpoint takes along.

    Raises `InputError` for weights in bf16, most of which so small steps would not move at all.
    """

    def __init__(self, backbone: WanBackbone, data: Clips, run: dict[str, Any]) -> None:
        if backbone.transformer.dtype != torch.float32:
            raise InputError("All weights are trained in fp32; give --dtype fp32.")
        self.backbone, self.data, self.config, self.run = backbone, data, data.config, run
        self.weights = nn.ModuleList(backbone.transformers).requires_grad_(True)
        self.optimizer = adamw([(self.weights.parameters(), 1.0)])
        self.text = TextCache(backbone, self.config.text_length)
        self.file = self.config.out / "checkpoint.pt"
        self.step = 0
        self.kept: dict[int, Tensor] = {}
        if state := load_checkpoint(self.file, run):
            self.weights.load_state_dict(state["weights"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.kept = state["step"], state["kept"]

    @property
    def parameters(self) -> int:
        """Number of parameters that are trained: all of the backbone's."""
        return sum(p.numel() for p in self.weights.parameters())

    def until(self, end: int) -> None:
        """Train to that step, if it is not there yet, and save. Raises `InputError` if the disk has no room for it."""
        if self.step >= end:
            return
        config = self.config
        # the weights and two moments, twice while one checkpoint replaces the other
        check_disk("full", config.out, 24 * self.parameters)
        log = RunLog(config.out, "full", self.step, config.steps)
        with prepared(self.backbone, config.text_length, config.checkpointing):
            for step in range(self.step, end):
                samples = self.data.batch(step)
                losses = flow_losses(self.backbone, self.text, samples)
                weighted_mean(losses, samples.sigma, config.weighting).backward()
                norm = nn.utils.clip_grad_norm_(self.weights.parameters(), config.clip_norm)
                set_learning_rate(self.optimizer, learning_rate(config, step))
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
                self.step = step + 1
                saves, row = self.step % config.save_every == 0 or self.step == end, None
                if saves or step % config.log_every == 0:
                    row = {"step": step, "loss": losses.mean().item(), **by_noise_level(losses, samples.sigma)}
                    row["norm"] = norm.item()
                log.step(row)
                if saves:
                    self.save()
        log.close()

    def save(self) -> None:
        """Write the checkpoint."""
        state = {"weights": self.weights.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step}
        save_checkpoint({**state, "kept": self.kept}, self.file, self.run)

    def seconds(self, step: int) -> float:
        """Seconds of training to a step where it was saved, over all resumes; what is done between is left out."""
        rows = [json.loads(line) for line in (self.config.out / "log.jsonl").read_text().splitlines()]
        return max(row["seconds"] for row in rows if row["step"] < step)
