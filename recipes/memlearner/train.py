"""Train the whole backbone with a method's memory, or go on where a run was stopped, on the same stream of samples.

    python -m recipes.memlearner.train --preset tiny
    python -m recipes.memlearner.train --preset tiny --method cam --start runs/memlearner-tiny/none
    accelerate launch -m recipes.memlearner.train --preset wan2.1-1.3b

The loss is on the chunk that is made, whose first frame is given; the past has from none to ``--chunks`` chunks, as
many in all samples of a step. OUT has the transformer (``transformer/``), what the method trains (``method/``), the
checkpoint, and log.jsonl with the loss by noise level. Processes share one batch, and with ``--shard`` the backbone's
weights.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator

from memkit.backbones import WanBackbone
from memkit.banks import MemoryBank
from memkit.errors import InputError
from memkit.generation import short_texts
from memkit.rollout import ContextMethod, SeparateContext
from recipes.common import settings
from recipes.common.backbones import load_whole
from recipes.common.commands import run_command
from recipes.common.course import Course, Made
from recipes.common.launch import launch, report_sharding, shard
from recipes.common.padded_text import TextCache, prepared
from recipes.common.training import fingerprint, identity, load_checkpoint
from recipes.memlearner.data import TrainingSet
from recipes.memlearner.methods import make_method, start_from
from recipes.memlearner.presets import Command, Config, parse
from recipes.memlearner.state import Training
from recipes.memlearner.step import losses, pretraining_losses

RESUME_OVERRIDES = settings.RESUME_OVERRIDES | {
    "start",
    "more_banks",
    "history_guidance",
    "budget",
    "train_videos",
    "test_videos",
}
"""Settings that a resumed run may change; the others would make another run of it."""


def load_backbone(config: Config, device: torch.device, folder: Path | None = None) -> WanBackbone:
    """The pipeline in fp32, its transformer from the run in ``folder`` if one is given."""
    return load_whole(config.model, config.threads, device, folder)


class Steps:
    """The steps of a run, and what each minimises."""

    def __init__(self, training: Training, data: TrainingSet) -> None:
        self.training, self.data, self.config = training, data, training.config
        self.text = TextCache(training.backbone, self.config.text_length)

    def gradients(self, step: int) -> Made:
        """The losses of this process' share of the batch; the mean of all gradients is left behind."""
        training, launched, config = self.training, self.training.launched, self.config
        batch = self.data.batch(step, launched.process_index, launched.num_processes)
        torch.manual_seed(random.Random(f"{config.seed}/{step}/{launched.process_index}").getrandbits(63))
        backbone, method = training.backbone, training.method
        if step < config.pretrain_steps and isinstance(method, SeparateContext):
            loss = pretraining_losses(config, backbone.device, method, self.text, batch)
        else:
            loss = losses(config, backbone, method, self.text, batch, self.data)
        training.share_gradients()
        return Made(loss, batch.sigma, {"past": len(batch.history)})

    def usual(self) -> int:
        """A step with half of the longest past."""
        half, first = max(1, self.config.chunks // 2), self.config.pretrain_steps
        return next((i for i in range(first, first + 1000) if self.data.past(i) >= half), first)


def train(config: Config, backbone: WanBackbone, banks: Sequence[MemoryBank], launched: Accelerator) -> ContextMethod:
    """Train to ``config.steps``; what is in ``config.out`` is gone on with. Only the main process writes."""
    if config.pretrain_steps and config.method != "separate":
        raise InputError(
            f"--pretrain-steps is for the method 'separate'; {config.method!r} has nothing to learn alone."
        )
    if config.context_noise != "clean" and config.method != "window":
        raise InputError(f"--context-noise is for the method 'window'; {config.method!r} takes clean context.")
    if config.query_loss and config.method != "learned":
        raise InputError(f"--query-loss is for the method 'learned'; {config.method!r} has no queries in the model.")
    if config.query_loss and config.query_time != "clean":
        raise InputError("--query-loss reads queries at timestep 0; give --query-time clean along.")
    method = make_method(config, backbone)
    if config.start is not None:
        start_from(method, config.start / "method")
    data = TrainingSet(banks, config, method.keeps)
    made_of = {"bank": [bank.fingerprint for bank in banks], "weights": fingerprint(backbone.transformer, method)}
    about = identity(config, RESUME_OVERRIDES, processes=launched.num_processes, **made_of)
    if config.shard and launched.num_processes > 1:
        shard(backbone.transformer)
    training, start = Training(config, backbone, method, launched), 0
    if state := load_checkpoint(config.out / "checkpoint.pt", about):
        training.load(state)
        start = state["step"]
    launched.wait_for_everyone()  # the main process will write where the others have just read
    steps = Steps(training, data)
    course = Course(
        f"memlearner {config.method}",
        config,
        launched,
        config.pretrain_steps + config.steps,
        steps.gradients,
        training.step,
        lambda step: training.save(step, about),
    )
    with ExitStack() as stack:
        stack.enter_context(prepared(backbone, config.text_length, config.checkpointing))
        if isinstance(method, SeparateContext):
            stack.enter_context(short_texts([method.module.wan], config.text_length))
        if start < course.steps:
            usual = steps.usual()
            course.tell(start, lambda: steps.gradients(usual), training.modules)
        course.run(start)
    return method.eval()


def main(command: Command) -> int:
    """Train; the exit code."""
    config = command.config
    banks = [config.folder / "train", *config.more_banks]
    for bank in banks:
        if not (bank / "bank.json").exists():
            raise InputError(f"There is no bank {bank}; run recipes.memlearner.prepare first.")
    launched = launch(config.device, config.tracker, "memkit-memlearner", asdict(config), config.out)
    backbone = load_backbone(config, launched.device, config.start)
    train(config, backbone, [MemoryBank.open(bank) for bank in banks], launched)
    report_sharding(launched, backbone.transformer)
    launched.end_training()
    return 0


if __name__ == "__main__":
    run_command(lambda: main(parse(Command, __doc__)))
