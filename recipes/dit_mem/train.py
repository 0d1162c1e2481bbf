"""Train the encoder on a frozen backbone. A run that was stopped continues with the same samples and noise.

    python -m recipes.dit_mem.train --preset tiny
    accelerate launch -m recipes.dit_mem.train --preset wan2.1-1.3b

Processes and accumulated passes split the batch of a step: two processes with a batch of 4 take the same steps as one
process with 8. OUT has the encoder (``encoder/``), the checkpoint, and log.jsonl with the loss by noise level. On a
small model the loss hardly changes while memory takes effect; judge a run by ``recipes.dit_mem.evaluate``.
"""

from __future__ import annotations

import random
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, cast

import torch
from accelerate import Accelerator
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from memkit import training
from memkit.backbones import WanBackbone
from memkit.encoders import MemoryEncoder
from memkit.generation import TextCache
from recipes.dit_mem.data import TrainingSet
from recipes.dit_mem.parts import digest, load_backbone, new_encoder
from recipes.dit_mem.presets import Command, Config, parse
from recipes.dit_mem.presets import command as next_command
from recipes.dit_mem.reading import GravityReader
from recipes.dit_mem.step import Objective, weighted_mean

RESUME_OVERRIDES = training.RESUME_OVERRIDES | {"flow_shift", "negative_prompt", "videos_at_once"}
RESUME_OVERRIDES |= {"test_clips", "train_clips"}
"""Settings that a resumed run may change."""


def train(config: Config, backbone: WanBackbone, data: TrainingSet, accelerator: Accelerator) -> MemoryEncoder:
    """Train to ``config.steps``, from the checkpoint in ``config.out`` if there is one.

    All processes call it; only the main one writes.
    """
    shares, text = training.micro_batches(accelerator), TextCache(backbone, config.text_length)
    run = training.run_settings(
        config,
        RESUME_OVERRIDES,
        start=None if config.start is None else digest(config.start),
        processes=shares[0][1],  # number of shares of a batch, on which its noise depends
        bank=data.bank.fingerprint,
        # with a sharded model, no process has all weights
        backbone=None if config.shard else training.fingerprint(*backbone.transformers),
    )
    objective = make_objective(config, backbone, training.sharded(accelerator, config.shard))
    objective.encoder.train()
    model = accelerator.prepare(objective)
    optimizer = accelerator.prepare(make_optimizer(config, objective))
    average = make_average(config, objective)
    state = training.TrainState(objective, optimizer, accelerator, average)
    start = state.resume(config.out / "checkpoint.pt", run)
    # a checkpoint has the weights, their average and two moments; while it is replaced, there are two; and the encoder
    training.check_disk("dit-mem", config.out, 10 * 4 * sum(p.numel() for p in objective.parameters()))
    log = training.RunLog(config.out, "dit-mem", start, config.steps, accelerator)
    with training.prepared(backbone, config.text_length, config.checkpointing):
        for step in range(start, config.steps):
            losses = []
            for share in shares:
                batch = data.batch(step, *share)
                torch.manual_seed(random.Random(f"{config.seed}/{step}/{share[0]}").getrandbits(63))  # of dropout
                with accelerator.accumulate(model), ExitStack() as attached:
                    loss, read = model(backbone, text, batch, attached)
                    whole = weighted_mean(loss, batch.sigma, config.weighting)
                    accelerator.backward(whole if read is None else whole + config.read_gravity * read)
                losses.append((loss, batch.sigma))
            training.zero_missing_gradients(objective)
            norm = training.clip_gradients(accelerator, objective, config.clip_norm)
            training.set_learning_rate(optimizer, learning_rate(config, step))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if average is not None:
                average.update_parameters(objective)
            row = None
            if step % config.log_every == 0:
                row = {"step": step, **training.gathered_losses(accelerator, losses), "norm": norm}
                row |= {} if read is None else {"loss_gravity": read.item()}
            log.step(row)
            if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
                save(config, trained_encoder(objective, average), state, step + 1, run)
    log.close()
    return trained_encoder(objective, average).eval()


def save(config: Config, encoder: MemoryEncoder, state: training.TrainState, step: int, run: dict[str, Any]) -> None:
    """Write the encoder for use, then the checkpoint. All processes call it; the main one writes."""
    if (whole := state.state_dict()) is not None:
        encoder.save_pretrained(config.encoder_folder)
        training.save_checkpoint({**whole, "step": step}, config.out / "checkpoint.pt", run)


def learning_rate(config: Config, step: int) -> float:
    """The encoder's learning rate at a step."""
    return config.lr * training.lr_multiplier(step, config.steps, config.warmup, config.schedule)


def make_objective(config: Config, backbone: WanBackbone, lockstep: bool) -> Objective:
    """The encoder in its objective, with a reader if ``config.read_gravity``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        reader = None if config.read_gravity is None else GravityReader(backbone.width).to(backbone.device)
    return Objective(new_encoder(config, backbone), lockstep, reader)


def make_optimizer(config: Config, objective: Objective) -> torch.optim.AdamW:
    """AdamW over the encoder, its gate and the reader, with rates relative to the encoder's."""
    encoder = objective.encoder
    gate = [] if encoder.gate is None else [*encoder.gate.parameters()]
    others = [p for name, p in objective.named_parameters() if not name.startswith("encoder.gate.")]
    return training.adamw([(others, 1.0), (gate, config.gate_lr / config.lr)])


def make_average(config: Config, objective: Objective) -> AveragedModel | None:
    """The exponential moving average of the trained weights; None without ``config.ema``."""
    if not config.ema:
        return None
    return AveragedModel(objective, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True)


def trained_encoder(objective: Objective, average: AveragedModel | None) -> MemoryEncoder:
    """The encoder to use: the average if there is one."""
    return (objective if average is None else cast(Objective, average.module)).encoder


@dataclass(frozen=True)
class Train(Command):
    """The command line."""

    shows: ClassVar[tuple[type, ...]] = training.TRAINS


def main(command: Command) -> int:
    """Train. Returns the exit code."""
    config = command.config
    bank = training.open_bank(config.bank, "recipes.dit_mem.prepare")
    accelerator = training.launch(config, "memkit-dit-mem", asdict(config))
    backbone = load_backbone(config, accelerator.device)
    data = TrainingSet(bank, config)
    accelerator.print(f"{len(data.ids)} targets, {data.short} of them with fewer than {config.k} clips of memory")
    training.report_sharding(accelerator, *backbone.transformers)
    train(config, backbone, data, accelerator)
    accelerator.end_training()
    training.report_done(config.out, next_command("evaluate", config))
    return 0


if __name__ == "__main__":
    training.run_command(lambda: main(parse(Train, __doc__)))
