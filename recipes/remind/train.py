"""Train all weights of a Wan to be causal, with memory. A run that was stopped continues with the same samples.

    python -m recipes.remind.train --preset tiny
    python -m recipes.remind.train --preset tiny --node-drop 0 --out runs/remind-tiny/no-drop --banks runs/remind-tiny
    accelerate launch -m recipes.remind.train --preset wan2.1-1.3b

Teacher forcing: one forward pass sees all chunks of a clip twice, clean as memory and noisy as targets, each with its
own noise level. A curriculum hides, corrupts or moves the memory; each of its parts is a setting. The loss is on frames
that are neither conditioning frames nor degraded. OUT has the transformer (``transformer/``), PM-RoPE (``cameras/``),
the checkpoint, and log.jsonl with the loss by noise level and the graph of each step. Processes and accumulated passes
split the batch of a step; with ``--shard`` the processes also split the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from memkit import training
from memkit.backbones import WanBackbone
from memkit.banks import MemoryBank
from memkit.cameras import CameraPath
from memkit.files.json_files import hash_rows
from memkit.generation import TextCache
from memkit.injectors import TeacherForcing, stream_cameras
from memkit.injectors.teacher_forcing.step import ForcedStep
from memkit.positions import PMRoPE, PMRoPEConfig
from recipes.remind.data import Batch, TrainingSet
from recipes.remind.presets import Command, Config, parse
from recipes.remind.presets import command as next_command
from recipes.remind.records import read_records

RESUME_OVERRIDES = training.RESUME_OVERRIDES | {"cache_frames", "train_clips", "test_clips", "world_captions"}
"""Settings that a resumed run may change; the bank and the records, which go by fingerprint, have the captions."""


def make_cameras(config: Config, backbone: WanBackbone) -> PMRoPE:
    """A new PM-RoPE, which has no effect yet."""
    return PMRoPE(PMRoPEConfig.of(backbone.transformer, config.cameras)).to(backbone.device)


class Objective(nn.Module):
    """The transformer and PM-RoPE, which are trained. A call returns the loss of each frame that has one."""

    def __init__(self, config: Config, backbone: WanBackbone, cameras: PMRoPE) -> None:
        super().__init__()
        self.transformer, self.cameras = backbone.transformer, cameras
        self.config, self.text = config, TextCache(backbone, config.text_length)

    def forward(self, batch: Batch, forced: ForcedStep, device: torch.device) -> tuple[Tensor, Tensor]:
        """Squared errors of the velocity and their noise levels, both [B, frames with loss]."""
        graph, latents, noise = batch.graph, batch.latents.to(device), batch.noise.to(device)
        text, memory_noise = self.embed(batch.captions).to(device), batch.memory_noise.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.config.dtype == "bf16"):
            velocity = forced.velocity(self.transformer, latents, noise, batch.sigma, text, memory_noise)
        mask = graph.loss_mask()
        error = (velocity.float() - (noise - latents)).pow(2).mean((1, 3, 4))[:, mask.to(device)]
        sizes = torch.tensor([node.frames for node in graph.nodes])
        return error, batch.sigma.repeat_interleave(sizes, dim=1)[:, mask].to(error)

    def embed(self, captions: Sequence[Sequence[str]]) -> Tensor:
        """Text embeddings [B,L,D] if all chunks of each sample have the same prompt, else [B,chunks,L,D]."""
        if all(len(set(row)) == 1 for row in captions):
            return self.text([row[0] for row in captions])
        return torch.stack([self.text(list(row)) for row in captions])


def train(config: Config, backbone: WanBackbone, bank: MemoryBank, accelerator: Accelerator) -> PMRoPE:
    """Train to ``config.steps``, from the checkpoint in ``config.out`` if there is one.

    All processes call it; only the main one writes.
    """
    cameras, data = make_cameras(config, backbone), TrainingSet(bank, config)
    shares = training.micro_batches(accelerator)
    run = training.run_settings(
        config,
        RESUME_OVERRIDES,
        processes=shares[0][1],  # number of shares of a batch, on which its noise depends
        bank=bank.fingerprint,
        records=hash_rows(record._asdict() for record in read_records(bank.path)),
        weights=training.fingerprint(backbone.transformer),
    )
    objective = Objective(config, backbone, cameras)
    model = training.distribute(accelerator, objective, backbone.transformer, config.shard)
    rates = [(objective.transformer.parameters(), config.lr), (cameras.parameters(), config.camera_lr)]
    optimizer = accelerator.prepare(training.adamw(rates))
    state = training.TrainState(objective, optimizer, accelerator)
    start = state.resume(config.out / "checkpoint.pt", run)
    training.check_disk("remind", config.out, 8 * 4 * sum(p.numel() for p in objective.parameters()))
    log = training.RunLog(config.out, "remind", start, config.steps, accelerator)
    with ExitStack() as stack:
        stack.enter_context(training.prepared(backbone, config.text_length, config.checkpointing))
        forcing = stack.enter_context(TeacherForcing().attach(backbone.transformer))
        positions = stack.enter_context(cameras.attach(backbone.transformer))
        for step in range(start, config.steps):
            losses = []
            for share in shares:
                batch = data.batch(step, *share)
                path = stream_cameras(batch.graph, CameraPath.of(batch.cameras), for_loss=True)
                with (
                    accelerator.accumulate(model),
                    forcing.chunk(batch.graph, for_loss=True) as forced,
                    positions.chunk(path.to(accelerator.device)),
                ):
                    error, sigma = model(batch, forced, accelerator.device)
                    accelerator.backward(error.mean())
                losses.append((error, sigma))
            training.zero_missing_gradients(objective)
            norm = training.clip_gradients(accelerator, objective, config.clip_norm)
            rate = training.lr_multiplier(step, config.steps, config.warmup, config.schedule)
            training.set_learning_rate(optimizer, rate)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            row = None
            if step % config.log_every == 0:
                row = {"step": step, **training.gathered_losses(accelerator, losses), "norm": norm}
                row["graph"] = summary(batch)
            log.step(row)
            if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
                save(config, objective, state, step + 1, run)
    log.close()
    return cameras.eval()


def save(config: Config, objective: Objective, state: training.TrainState, step: int, run: dict[str, Any]) -> None:
    """Write transformer and PM-RoPE, then the checkpoint. All processes call it; the main one writes."""
    parts = {"transformer": objective.transformer, "cameras": objective.cameras}
    training.save_run(parts, state, step, config.out, run)


def summary(batch: Batch) -> str:
    """The graph of a step in letters: the role of each chunk, then k if conditioning, d if dropped, n if noisy."""
    marks = []
    for node in batch.graph.nodes:
        more = "k" * (node.conditioning_frames == node.frames) + "d" * node.dropped + "n" * (node.sigma > 0)
        marks.append(f"{node.role[0].upper()}{more}@{node.time}")
    return " ".join(marks)


@dataclass(frozen=True)
class Train(Command):
    """The command line."""

    shows: ClassVar[tuple[type, ...]] = training.TRAINS


def main(command: Command) -> int:
    """Train. Returns the exit code."""
    config = command.config
    bank = training.open_bank(config.folder / "train", "recipes.remind.prepare")
    accelerator = training.launch(config, "memkit-remind", asdict(config))
    backbone = training.load_trainable(config, accelerator.device, training.sharded(accelerator, config.shard))
    train(config, backbone, bank, accelerator)
    training.report_sharding(accelerator, backbone.transformer)
    accelerator.end_training()
    training.report_done(config.out, next_command("evaluate", config))
    return 0


if __name__ == "__main__":
    training.run_command(lambda: main(parse(Train, __doc__)))
