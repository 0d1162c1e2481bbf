"""Train the encoder on a frozen backbone, or go on where a run was stopped, on the same stream of samples and noise.

Processes share one batch: two of them with a batch of 4 make the steps that one makes with 8.

    python -m recipes.dit_mem.train --preset tiny
    accelerate launch -m recipes.dit_mem.train --preset wan2.1-1.3b

OUT has the encoder (``encoder/``), the checkpoint, and log.jsonl with the loss by noise level. On a small model the
loss hardly moves while memory takes hold: judge by ``recipes.dit_mem.evaluate``.
"""

from __future__ import annotations

import copy
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from memkit.backbones import WanBackbone
from memkit.banks import MemoryBank
from memkit.encoders import Encoder
from memkit.errors import InputError
from recipes.common import settings
from recipes.common.commands import run_command
from recipes.common.course import Course, Made
from recipes.common.launch import launch, mean_gradients, report_sharding
from recipes.common.padded_text import TextCache, prepared
from recipes.common.training import fingerprint, identity, load_checkpoint, lr_multiplier, save_checkpoint
from recipes.dit_mem.data import TrainingSet
from recipes.dit_mem.parts import load_backbone, new_encoder
from recipes.dit_mem.presets import Command, Config, parse
from recipes.dit_mem.step import backward

RESUME_OVERRIDES = settings.RESUME_OVERRIDES | {
    "flow_shift",
    "negative_prompt",
    "videos_at_once",
    "test_clips",
    "train_clips",
}
"""Settings that a resumed run may change; the others would make another run of it."""


def learning_rate(config: Config, step: int) -> float:
    """Of one step."""
    return config.lr * lr_multiplier(step, config.steps, config.warmup, config.schedule)


class Training:
    """What a step changes: encoder and gate, their average if one is kept, the optimizer's state."""

    def __init__(self, config: Config, backbone: WanBackbone) -> None:
        self.config = config
        self.encoder = new_encoder(config, backbone).train()
        gate = [] if self.encoder.gate is None else [*self.encoder.gate.parameters()]
        others = [p for name, p in self.encoder.named_parameters() if not name.startswith("gate.")]
        groups: list[dict[str, Any]] = [{"params": others, "faster": 1.0}]
        if gate:
            groups.append({"params": gate, "faster": config.gate_lr / config.lr})
        self.optimizer = torch.optim.AdamW(groups, lr=config.lr, weight_decay=0.0)
        average = get_ema_multi_avg_fn(config.ema)
        self.average = AveragedModel(self.encoder, multi_avg_fn=average, use_buffers=True) if config.ema else None

    def update(self, step: int) -> Tensor:
        """Take the gradients, which all processes share by now, and clear them; their norm before clipping."""
        norm = nn.utils.clip_grad_norm_(self.encoder.parameters(), self.config.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, step) * group["faster"]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update_parameters(self.encoder)
        return norm

    def best(self) -> Encoder:
        """The encoder for use: the average, if one is kept."""
        return self.encoder if self.average is None else cast(Encoder, self.average.module)

    def save(self, step: int, file: Path, about: dict[str, Any]) -> None:
        """Write the encoder for use, then the checkpoint."""
        self.best().save_pretrained(self.config.encoder_folder)
        state = {"encoder": self.encoder.state_dict(), "optimizer": self.optimizer.state_dict(), "step": step}
        if self.average is not None:
            state["average"] = self.average.state_dict()
        save_checkpoint(state, file, about)

    def load(self, state: dict[str, Any]) -> int:
        """Take a checkpoint's state; the step to go on with."""
        self.encoder.load_state_dict(state["encoder"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        return state["step"]


def train(config: Config, backbone: WanBackbone, data: TrainingSet, launched: Accelerator) -> Encoder:
    """Train to ``config.steps``; what is in ``config.out`` is gone on with. Only the main process writes."""
    training, file, start = Training(config, backbone), config.out / "checkpoint.pt", 0
    about = identity(
        config,
        RESUME_OVERRIDES,
        processes=launched.num_processes,
        bank=data.bank.fingerprint,
        # the weights themselves, not their name alone; of a model in pieces no process has the whole
        backbone=None if config.shard else fingerprint(*backbone.transformers),
    )
    if state := load_checkpoint(file, about):
        start = training.load(state)
    launched.wait_for_everyone()  # the main process will write where the others have just read
    text, share = TextCache(backbone, config.text_length), (launched.process_index, launched.num_processes)
    lockstep = config.shard and launched.num_processes > 1

    def gradients(step: int, of: Training = training) -> Made:
        batch = data.batch(step, *share)
        torch.manual_seed(_seed_of(config, step, launched.process_index))  # of dropout, which the release's encoder has
        loss = backward(backbone, of.encoder, text, batch, config.weighting, lockstep)
        mean_gradients(launched, of.encoder.parameters())
        return Made(loss, batch.sigma, {})

    def save(step: int) -> None:
        if launched.is_main_process:
            training.save(step, file, about)

    course = Course("dit-mem", config, launched, config.steps, gradients, training.update, save)
    with prepared(backbone, config.text_length, config.checkpointing):
        if start < course.steps:
            # of a copy, for a step moves the statistics of the release's encoder; the average too is on the disk twice
            copied = copy.deepcopy(training)
            course.tell(start, lambda: gradients(start, copied), copied.encoder, copies=10)
        course.run(start)
    return training.best().eval()


def _seed_of(config: Config, step: int, rank: int) -> int:
    return random.Random(f"{config.seed}/{step}/{rank}").getrandbits(63)


def main(command: Command) -> int:
    """Train; the exit code."""
    config = command.config
    if not (config.bank / "bank.json").exists():
        raise InputError(f"There is no bank {config.bank}; run recipes.dit_mem.prepare first.")
    launched = launch(config.device, config.tracker, "memkit-dit-mem", asdict(config), config.out)
    backbone = load_backbone(config, launched.device)
    data = TrainingSet(MemoryBank.open(config.bank), config)
    launched.print(f"{len(data.ids)} targets, {data.short} of them with fewer than {config.k} clips of memory")
    report_sharding(launched, *backbone.transformers)
    train(config, backbone, data, launched)
    launched.end_training()
    return 0


if __name__ == "__main__":
    run_command(lambda: main(parse(Command, __doc__)))
