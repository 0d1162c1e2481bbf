"""Train all weights of the backbone without memory, by flow matching, as a baseline for memory."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from memkit import training
from memkit.backbones import WanBackbone
from memkit.banks import MemoryBank
from memkit.errors import InputError
from memkit.generation import TextCache
from recipes.dit_mem.data import Samples, draw_conditioning_frames, draw_level, draw_noise
from recipes.dit_mem.presets import Config
from recipes.dit_mem.step import flow_losses, weighted_mean
from recipes.dit_mem.train import learning_rate


class Clips:
    """Batches of some clips of a bank. A batch depends on the seed and the step only."""

    def __init__(self, bank: MemoryBank, ids: Sequence[str], config: Config) -> None:
        self.bank, self.ids, self.config = bank, list(ids), config
        self._captions = dict(zip(bank.ids, bank.captions, strict=True))

    def batch(self, step: int) -> Samples:
        """The batch of a step, with one noise level per stratum of equal size."""
        config = self.config
        rngs = [random.Random(f"full/{config.seed}/{step}/{place}") for place in range(config.batch)]
        ids = [rng.choice(self.ids) for rng in rngs]
        blank = [rng.random() < config.drop_text for rng in rngs]
        levels = [draw_level(rng, place, config.batch) for place, rng in enumerate(rngs)]
        latents = self.bank.latents(ids)[0].float()
        noise, sigma = draw_noise(latents, [rng.getrandbits(63) for rng in rngs], levels, config.shift)
        captions = ["" if no_text else self._captions[id] for id, no_text in zip(ids, blank, strict=True)]
        return Samples(captions, latents, noise, sigma, draw_conditioning_frames(config, step))


class Tuning:
    """A backbone in training, which continues from the checkpoint in its folder.

    ``run`` is the result of `memkit.training.run_settings`. ``kept`` are figures by step, which the checkpoints keep.

    Raises `InputError` for weights in bf16, most of which such small steps would not change.
    """

    def __init__(self, backbone: WanBackbone, data: Clips, run: dict[str, Any]) -> None:
        if backbone.transformer.dtype != torch.float32:
            raise InputError("All weights are trained in fp32; give --dtype fp32.")
        self.backbone, self.data, self.config, self.run = backbone, data, data.config, run
        self.weights = nn.ModuleList(backbone.transformers).requires_grad_(True)
        self.optimizer = training.adamw([(self.weights.parameters(), 1.0)])
        self.text = TextCache(backbone, self.config.text_length)
        self.file = self.config.out / "checkpoint.pt"
        self.step = 0
        self.kept: dict[int, Tensor] = {}
        if state := training.load_checkpoint(self.file, run):
            with training.restoring(self.file):
                self.weights.load_state_dict(state["weights"])
                training.load_optimizer(self.optimizer, state["optimizer"])
                self.step, self.kept = state["step"], state["kept"]

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
        return sum(p.numel() for p in self.weights.parameters())

    def until(self, end: int) -> None:
        """Train up to a step, if it was not reached yet, and save. Raises `InputError` if the disk is too full."""
        if self.step >= end:
            return
        config = self.config
        # a checkpoint has the weights and two moments; while it is replaced, there are two
        training.check_disk("full", config.out, 24 * self.parameters)
        log = training.RunLog(config.out, "full", self.step, config.steps)
        with training.prepared(self.backbone, config.text_length, config.checkpointing):
            for step in range(self.step, end):
                samples = self.data.batch(step)
                with ExitStack() as attached:
                    losses = flow_losses(self.backbone, self.text, samples, attached)
                    weighted_mean(losses, samples.sigma, config.weighting).backward()
                norm = nn.utils.clip_grad_norm_(self.weights.parameters(), config.clip_norm)
                training.set_learning_rate(self.optimizer, learning_rate(config, step))
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
                self.step = step + 1
                saves, row = self.step % config.save_every == 0 or self.step == end, None
                if saves or step % config.log_every == 0:
                    row = {"step": step, "loss": losses.mean().item(), **training.by_noise_level(losses, samples.sigma)}
                    row["norm"] = norm.item()
                log.step(row)
                if saves:
                    self.save()
        log.close()

    def save(self) -> None:
        """Write the checkpoint."""
        state = {"weights": self.weights.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step}
        training.save_checkpoint({**state, "kept": self.kept}, self.file, self.run)

    def seconds(self, step: int) -> float:
        """Seconds of training up to a saved step, resumed runs included, without the measurements in between."""
        return max(row["seconds"] for row in training.read_run_log(self.config.out) if row["step"] < step)
