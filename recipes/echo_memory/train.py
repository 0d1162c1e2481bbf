"""Train an `EchoMemory` with a Wan. A run that was stopped continues with the same samples.

    python -m recipes.echo_memory.train --preset tiny
    accelerate launch -m recipes.echo_memory.train --preset wan2.1-1.3b

The loss is that of flow matching on the chunk, whose frames are all new; context frames are single frames of the chunk
before. OUT has the transformer (``transformer/``), the memory (``method/memory/``), the checkpoint and log.jsonl.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from memkit import training
from memkit.backbones import WanBackbone
from memkit.banks import MemoryBank
from memkit.flow import NUM_TRAIN_TIMESTEPS, add_noise
from memkit.generation import TextCache
from memkit.rollout import EchoContext
from memkit.rollout.saved import parts_of
from recipes.echo_memory.data import Batch, TrainingSet, make_method
from recipes.echo_memory.presets import Command, Config, parse
from recipes.echo_memory.presets import command as next_command

RESUME_OVERRIDES = training.RESUME_OVERRIDES | {"train_videos", "negative_prompt"}
"""Settings that a resumed run may change."""


class Objective(nn.Module):
    """The trained modules. A call returns the loss of a batch, and that of each sample."""

    usual: Tensor

    def __init__(self, config: Config, backbone: WanBackbone, method: EchoContext) -> None:
        super().__init__()
        self.transformer, self.method, self.config = backbone.transformer, method, config
        self.text = TextCache(backbone, config.text_length)
        self.register_buffer("usual", torch.tensor(torch.nan))
        for name, parameter in self.transformer.named_parameters():
            parameter.requires_grad_(config.trained == "all" or not name.startswith("blocks."))

    def forward(self, batch: Batch, device: torch.device, attached: ExitStack) -> tuple[Tensor, Tensor]:
        """Close ``attached`` after the backward pass, in which gradient checkpointing runs the blocks again."""
        selection = self.method.choose(batch.history, batch.cameras)
        latents, noise, sigma = (x.to(device) for x in (batch.latents, batch.noise, batch.sigma))
        text = self.text(batch.captions).to(device)
        attached.enter_context(torch.autocast(device.type, torch.bfloat16, enabled=self.config.dtype == "bf16"))
        attached.enter_context(
            self.method.shown(
                self.transformer,
                selection=None if selection is None else selection._replace(latents=selection.latents.to(device)),
                cameras=batch.cameras,
                noise=noise,
                text=text,
            )
        )
        noisy = add_noise(latents, noise, sigma)
        predicted = self.transformer(noisy, sigma * NUM_TRAIN_TIMESTEPS, text, return_dict=False)[0]
        errors = (predicted.float() - (noise - latents)).pow(2).flatten(1).mean(1)
        return errors.mean() * self._counts(errors.detach().mean()), errors.detach()

    @torch.no_grad()
    def _counts(self, loss: Tensor) -> Tensor:
        """0 for a loss far above the running mean, to which it is not added; otherwise 1."""
        counts = ~(loss > self.config.spike * self.usual) if self.config.spike else torch.ones_like(loss)
        usual = torch.where(self.usual.isnan(), loss, torch.lerp(self.usual.to(loss), loss, 0.01))
        self.usual.copy_(torch.where(counts.bool(), usual, self.usual))
        return counts.to(loss)


def train(config: Config, backbone: WanBackbone, bank: MemoryBank, accelerator: Accelerator) -> EchoContext:
    """Train to ``config.steps``, from the checkpoint in ``config.out`` if there is one."""
    method = make_method(config, backbone, training=True)
    data, shares = TrainingSet(bank, config), training.micro_batches(accelerator)
    run = training.run_settings(
        config,
        RESUME_OVERRIDES,
        processes=shares[0][1],  # number of shares of a batch, on which its noise depends
        bank=bank.fingerprint,
        weights=training.fingerprint(backbone.transformer, method),
    )
    objective = Objective(config, backbone, method).to(accelerator.device)
    model = training.distribute(accelerator, objective, backbone.transformer, config.shard)
    moved = [p for p in objective.transformer.parameters() if p.requires_grad]
    optimizer = accelerator.prepare(training.adamw([(moved, config.lr), (method.parameters(), config.lr)]))
    state = training.TrainState(objective, optimizer, accelerator)
    start = state.resume(config.out / "checkpoint.pt", run)
    training.check_disk("echo_memory", config.out, 8 * 4 * sum(p.numel() for p in objective.parameters()))
    log = training.RunLog(config.out, f"echo_memory {config.row}", start, config.steps, accelerator)
    with training.prepared(backbone, config.text_length, config.checkpointing):
        for step in range(start, config.steps):
            losses = []
            for share in shares:
                batch = data.batch(step, *share)
                with accelerator.accumulate(model), ExitStack() as attached:
                    loss, errors = model(batch, accelerator.device, attached)
                    accelerator.backward(loss)
                losses.append((errors, batch.sigma))
            training.zero_missing_gradients(objective)
            norm = training.clip_gradients(accelerator, objective, config.clip_norm)
            rate = training.lr_multiplier(step, config.steps, config.warmup, config.schedule)
            training.set_learning_rate(optimizer, rate)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            row = None
            if step % config.log_every == 0:
                row = {"step": step, **training.gathered_losses(accelerator, losses), "norm": norm}
            log.step(row)
            if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
                save(config, objective, state, step + 1, run)
    log.close()
    return method.eval()


def save(config: Config, objective: Objective, state: training.TrainState, step: int, run: dict[str, Any]) -> None:
    """Write transformer and memory, then the checkpoint. All processes call it; the main one writes."""
    parts = {f"method.{name}": part for name, part in parts_of(objective.method).items()}
    training.save_run({"transformer": objective.transformer, **parts}, state, step, config.out, run)


@dataclass(frozen=True)
class Train(Command):
    """The command line."""

    shows: ClassVar[tuple[type, ...]] = training.TRAINS


def main(command: Command) -> int:
    """Train. Returns the exit code."""
    config = command.config
    bank = training.open_bank(config.folder / "train", "recipes.echo_memory.prepare")
    accelerator = training.launch(config, "memkit-echo-memory", asdict(config))
    backbone = training.load_trainable(config, accelerator.device, training.sharded(accelerator, config.shard))
    train(config, backbone, bank, accelerator)
    training.report_sharding(accelerator, backbone.transformer)
    accelerator.end_training()
    training.report_done(config.out, next_command("evaluate", config))
    return 0


if __name__ == "__main__":
    training.run_command(lambda: main(parse(Train, __doc__)))
