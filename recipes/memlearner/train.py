"""Train the whole backbone with a memory method. A run that was stopped continues with the same samples.

    python -m recipes.memlearner.train --preset tiny
    python -m recipes.memlearner.train --preset tiny --method cam --start runs/memlearner-tiny/none
    accelerate launch -m recipes.memlearner.train --preset wan2.1-1.3b

The loss is on the generated chunk, whose first frame is the conditioning frame; the past has 0 to ``--chunks`` chunks,
the same number in all samples of a step. OUT has the transformer (``transformer/``), the modules of the method
(``method/``), the checkpoint, and log.jsonl with the loss by noise level. Processes and accumulated passes split the
batch of a step; with ``--shard`` the processes also split the weights.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from accelerate import Accelerator

from memkit import training
from memkit.backbones import WanBackbone
from memkit.banks import MemoryBank
from memkit.errors import InputError
from memkit.generation import short_texts
from memkit.rollout import ContextMethod, SeparateContext
from memkit.rollout.saved import copy_camera_encoders, parts_of
from recipes.memlearner.data import TrainingSet
from recipes.memlearner.methods import make_method
from recipes.memlearner.presets import Command, Config, parse
from recipes.memlearner.presets import command as next_command
from recipes.memlearner.step import Objective

RESUME_OVERRIDES = training.RESUME_OVERRIDES | {"start", "more_banks", "history_guidance", "budget"}
RESUME_OVERRIDES |= {"train_videos", "test_videos", "suite"}  # the fingerprints of the banks say what is trained on
"""Settings that a resumed run may change."""


def train(
    config: Config, backbone: WanBackbone, banks: Sequence[MemoryBank], accelerator: Accelerator
) -> ContextMethod:
    """Train to ``config.steps``, from the checkpoint in ``config.out`` if there is one.

    All processes call it; only the main one writes. Raises `InputError` for settings that do not go together.
    """
    check(config)
    method = make_method(config, backbone)
    if config.start is not None:
        copy_camera_encoders(method, config.start / "method")
    data, shares = TrainingSet(banks, config, method.keeps), training.micro_batches(accelerator)
    run = training.run_settings(
        config,
        RESUME_OVERRIDES,
        processes=shares[0][1],  # number of shares of a batch, on which its noise depends
        bank=[bank.fingerprint for bank in banks],
        weights=training.fingerprint(backbone.transformer, method),
    )
    objective = Objective(config, backbone, method, data)
    model = training.distribute(accelerator, objective, backbone.transformer, config.shard)
    rates = [(objective.transformer.parameters(), config.lr), (method.parameters(), config.camera_lr)]
    optimizer = accelerator.prepare(training.adamw(rates))
    state = training.TrainState(objective, optimizer, accelerator)
    start, total = state.resume(config.out / "checkpoint.pt", run), config.pretrain_steps + config.steps
    training.check_disk("memlearner", config.out, 8 * 4 * sum(p.numel() for p in objective.parameters()))
    log = training.RunLog(config.out, f"memlearner {config.method}", start, total, accelerator)
    with ExitStack() as stack:
        stack.enter_context(training.prepared(backbone, config.text_length, config.checkpointing))
        if isinstance(method, SeparateContext):
            stack.enter_context(short_texts([method.module.wan], config.text_length))
        for step in range(start, total):
            alone, losses = step < config.pretrain_steps, []
            for share in shares:
                batch = data.batch(step, *share)
                torch.manual_seed(random.Random(f"{config.seed}/{step}/{share[0]}").getrandbits(63))
                with accelerator.accumulate(model), ExitStack() as attached:
                    loss, errors = model(batch, accelerator.device, attached, alone)
                    accelerator.backward(loss)
                losses.append((errors, batch.sigma))
            training.zero_missing_gradients(objective)
            norm = training.clip_gradients(accelerator, objective, config.clip_norm)
            training.set_learning_rate(optimizer, learning_rate(config, step))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            row = None
            if step % config.log_every == 0:
                figures = training.gathered_losses(accelerator, losses)
                row = {"step": step, **figures, "norm": norm, "past": len(batch.history)}
            log.step(row)
            if (step + 1) % config.save_every == 0 or step + 1 == total:
                save(config, objective, state, step + 1, run)
    log.close()
    return method.eval()


def check(config: Config) -> None:
    """Raise `InputError` for settings that the method does not have."""
    if config.pretrain_steps and config.method != "separate":
        raise InputError(f"--pretrain-steps is for the method 'separate'; {config.method!r} has no query module.")
    if config.context_noise != "clean" and config.method != "window":
        raise InputError(f"--context-noise is for the method 'window'; {config.method!r} takes clean context.")
    if config.query_loss and config.method != "learned":
        raise InputError(f"--query-loss is for the method 'learned'; {config.method!r} has no queries in the model.")
    if config.query_loss and config.query_time != "clean":
        raise InputError("--query-loss reads queries at timestep 0; add --query-time clean.")


def learning_rate(config: Config, step: int) -> float:
    """Learning-rate multiplier of a step; the steps that train the query module alone have their own schedule."""
    first = config.pretrain_steps
    at, steps = (step, first) if step < first else (step - first, config.steps)
    return training.lr_multiplier(at, steps, config.warmup, config.schedule)


def save(config: Config, objective: Objective, state: training.TrainState, step: int, run: dict[str, Any]) -> None:
    """Write transformer and method, then the checkpoint. All processes call it; the main one writes."""
    parts = {f"method.{name}": part for name, part in parts_of(objective.method).items()}
    training.save_run({"transformer": objective.transformer, **parts}, state, step, config.out, run)


@dataclass(frozen=True)
class Train(Command):
    """The command line."""

    shows: ClassVar[tuple[type, ...]] = training.TRAINS


def main(command: Command) -> int:
    """Train. Returns the exit code."""
    config = command.config
    paths = (config.folder / "train", *config.more_banks)
    banks = [training.open_bank(path, "recipes.memlearner.prepare") for path in paths]
    accelerator = training.launch(config, "memkit-memlearner", asdict(config))
    sharded = training.sharded(accelerator, config.shard)
    backbone = training.load_trainable(config, accelerator.device, sharded, config.start)
    train(config, backbone, banks, accelerator)
    training.report_sharding(accelerator, backbone.transformer)
    accelerator.end_training()
    training.report_done(config.out, next_command("evaluate", config))
    return 0


if __name__ == "__main__":
    training.run_command(lambda: main(parse(Train, __doc__)))
