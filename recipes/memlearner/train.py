"""Train the whole backbone with a method's memory, or go on where a run was stopped, on the same stream of samples.

    python -m recipes.memlearner.train --preset tiny
    python -m recipes.memlearner.train --preset tiny --method cam --start runs/memlearner-tiny/none
    accelerate launch -m recipes.memlearner.train --preset wan2.1-1.3b

The loss is on the chunk that is made, whose first frame is given; the past has from none to ``--chunks`` chunks, as
many in all samples of a step. OUT has the transformer (``transformer/``), what the method trains (``method/``), the
checkpoint, and log.jsonl with the loss by noise level. Processes share one batch.
"""

from __future__ import annotations

import random
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from memkit.backbones import WanBackbone
from memkit.bank import MemoryBank
from memkit.context_methods import ContextMethod, SeparateContext
from memkit.errors import InputError
from memkit.flow import NUM_TRAIN_TIMESTEPS, add_noise
from memkit.known import known_frames
from recipes.commands import run_command
from recipes.launch import launch, mean_gradients
from recipes.memlearner.data import Batch, TrainingSet
from recipes.memlearner.methods import make_method, save_method, start_from
from recipes.memlearner.presets import Command, Config, parse
from recipes.padded_text import PIPELINE_TEXT_LENGTH, TextCache, prepared, short_text
from recipes.training import (
    Phase,
    RunLog,
    by_noise_level,
    fingerprint,
    identity,
    load_checkpoint,
    save_checkpoint,
    share_of_rate,
    tell_cost,
    timed,
)

MAY_CHANGE = {"out", "banks", "start", "device", "threads", "tracker", "save_every", "log_every", "sampling_steps"}
MAY_CHANGE |= {"guidance_scale", "history_guidance", "budget", "train_videos", "test_videos"}
"""Settings that a resumed run may change; the others would make another run of it."""


def load_backbone(config: Config, device: torch.device, folder: Path | None = None) -> WanBackbone:
    """The pipeline in fp32, its transformer from the run in ``folder`` if one is given."""
    if config.threads:
        torch.set_num_threads(config.threads)
    dtype = torch.float32
    backbone = WanBackbone.tiny(dtype) if config.model == "tiny" else WanBackbone.from_pretrained(config.model, dtype)
    if backbone.transformer_2 is not None:
        raise InputError(f"{config.model} has two experts; this recipe trains one transformer, whole.")
    pipe = backbone.pipeline()
    if folder is not None:
        if not (folder / "transformer" / "config.json").exists():
            raise InputError(f"There is no trained transformer in {folder}; run recipes.memlearner.train first.")
        pipe.transformer = WanTransformer3DModel.from_pretrained(folder / "transformer")
        backbone = WanBackbone.from_pipeline(pipe, backbone.video_format)
    pipe.to(device)
    pipe.set_progress_bar_config(disable=True)
    for part in (pipe.text_encoder, pipe.vae, pipe.transformer):
        part.requires_grad_(part is pipe.transformer).eval()
    return backbone


class Training:
    """What a step changes: the transformer, the method's parts, the optimizer's state."""

    def __init__(self, config: Config, backbone: WanBackbone, method: ContextMethod) -> None:
        self.config, self.backbone, self.method = config, backbone, method
        self.modules = nn.ModuleDict({"transformer": backbone.transformer, "method": method})
        groups = [
            {"params": list(backbone.transformer.parameters()), "rate": config.lr},
            {"params": list(method.parameters()), "rate": config.camera_lr},
        ]
        self.optimizer = torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=0.0)

    def update(self, step: int) -> Tensor:
        """Take the gradients, which all processes share by now, and clear them; their norm before clipping."""
        norm = nn.utils.clip_grad_norm_(self.modules.parameters(), self.config.clip_norm)
        config = self.config
        share = share_of_rate(step, config.steps, config.warmup, config.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * share
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def save(self, step: int, about: dict[str, Any]) -> None:
        """Write transformer and method for use, then the checkpoint."""
        out = self.config.out
        self.backbone.transformer.save_pretrained(out / "transformer")
        save_method(self.method, out / "method")
        state = {"modules": self.modules.state_dict(), "optimizer": self.optimizer.state_dict(), "step": step}
        save_checkpoint(state, out / "checkpoint.pt", about)

    def load(self, state: dict[str, Any]) -> int:
        """Take a checkpoint's state; the step to go on with."""
        self.modules.load_state_dict(state["modules"])
        self.optimizer.load_state_dict(state["optimizer"])
        return state["step"]


def losses(training: Training, text: TextCache, batch: Batch) -> Tensor:
    """Flow-matching loss of each sample [B], over the frames after the first, which is given."""
    backbone, method, config = training.backbone, training.method, training.config
    device = backbone.device
    latents, noise, sigma = (x.to(device) for x in (batch.latents, batch.noise, batch.sigma))
    noisy, words = add_noise(latents, noise, sigma), text(batch.captions).to(device)
    taken = method.choose(batch.history, batch.cameras)
    if taken is not None:
        taken = taken._replace(latents=taken.latents.to(device))
    shown = {"taken": taken, "cameras": batch.cameras, "noise": batch.query_noise.to(device), "text": words}
    with (
        torch.autocast(device.type, torch.bfloat16, enabled=config.dtype == "bf16"),
        method.shown(backbone.transformer, **shown),
        known_frames(latents[:, :, :1], backbone.transformer),
    ):
        predicted = backbone.velocity(noisy, sigma * NUM_TRAIN_TIMESTEPS, words)
        error = (predicted.float() - (noise - latents)).pow(2)[:, :, 1:].flatten(1).mean(1)
        if error.requires_grad:
            error.mean().backward()  # here, where gradient checkpointing still finds what is attached
    return error.detach()


def train(config: Config, backbone: WanBackbone, bank: MemoryBank, launched: Accelerator) -> ContextMethod:
    """Train to ``config.steps``; what is in ``config.out`` is gone on with. Only the main process writes."""
    method = make_method(config, backbone)
    if config.start is not None:
        start_from(method, config.start / "method")
    training, start, begun = Training(config, backbone, method), 0, fingerprint(backbone.transformer, method)
    data = TrainingSet(bank, config, method.keeps)
    about = identity(config, MAY_CHANGE, processes=launched.num_processes, bank=bank.fingerprint, weights=begun)
    if state := load_checkpoint(config.out / "checkpoint.pt", about):
        start = training.load(state)
    launched.wait_for_everyone()  # the main process will write where the others have just read
    text, main = TextCache(backbone, config.text_length), launched.is_main_process

    def gradients(of: Training, batch: Batch, step: int) -> Tensor:
        torch.manual_seed(random.Random(f"{config.seed}/{step}/{launched.process_index}").getrandbits(63))
        loss = losses(of, text, batch)
        _fill(of.modules)
        mean_gradients(launched, of.modules.parameters())
        return loss

    with ExitStack() as stack:
        stack.enter_context(prepared(backbone, config.text_length, config.checkpointing))
        if isinstance(method, SeparateContext) and config.text_length < PIPELINE_TEXT_LENGTH:
            stack.enter_context(short_text(method.module.wan, config.text_length))
        if start < config.steps and main:
            _tell(training, text, data, config.steps - start)
        tracked = None if config.tracker == "none" else lambda row, step: launched.log(row, step=step)
        log = RunLog(config.out, f"memlearner {config.method}", start, config.steps, tracked) if main else None
        for step in range(start, config.steps):
            batch = data.batch(step, launched.process_index, launched.num_processes)
            loss = gradients(training, batch, step)
            norm = training.update(step)
            row = None
            if step % config.log_every == 0:
                every = launched.gather((loss, batch.sigma.to(loss)))
                row = {"step": step, "loss": every[0].mean().item(), **by_noise_level(*every), "norm": norm.item()}
                row["past"] = len(batch.history)
            if log is None:
                continue
            log.step(row)
            if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
                training.save(step + 1, about)
    if log is not None:
        log.close()
    return method.eval()


def _fill(modules: nn.Module) -> None:
    """Zero gradients where a step had none: without a past not all parts are used, and Adam's moments go on."""
    for parameter in modules.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def _tell(training: Training, text: TextCache, data: TrainingSet, steps: int) -> None:
    """Say what the steps will cost, from steps with half of the longest past, whose gradients are thrown away."""
    step = next(i for i in range(1000) if data.past(i) >= max(1, training.config.chunks // 2) or i == 999)
    batch = data.batch(step)
    seconds = timed(lambda: losses(training, text, batch))
    training.modules.zero_grad(set_to_none=True)
    weights = sum(p.numel() for p in training.modules.parameters()) * 4
    # a checkpoint is the weights and two moments, the weights once more; two lie there while one replaces the other
    tell_cost("memlearner", [Phase("all", steps, seconds)], 8 * weights, training.config.out)


def main(command: Command) -> int:
    """Train; the exit code."""
    config = command.config
    if not (config.folder / "train" / "bank.json").exists():
        raise InputError(f"There is no bank {config.folder / 'train'}; run recipes.memlearner.prepare first.")
    launched = launch(config.device, config.tracker, "memkit-memlearner", asdict(config), config.out)
    backbone = load_backbone(config, launched.device, config.start)
    train(config, backbone, MemoryBank.open(config.folder / "train"), launched)
    launched.end_training()
    return 0


if __name__ == "__main__":
    run_command(lambda: main(parse(Command, __doc__)))
