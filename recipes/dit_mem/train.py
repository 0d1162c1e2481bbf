"""Train the encoder on a frozen backbone, or go on where a run was stopped, on the same stream of samples and noise.

    python -m recipes.dit_mem.train --preset tiny
    torchrun --nproc-per-node 8 -m recipes.dit_mem.train --preset wan2.1-1.3b

OUT has the encoder (``encoder/``), the checkpoint, and log.jsonl with the loss by noise level. On a small model the
loss hardly moves while memory takes hold: judge by ``recipes.dit_mem.evaluate``.
"""

from __future__ import annotations

import contextlib
import copy
import math
import os

import torch
from torch import Tensor, nn

from memkit.backbones import WanBackbone
from memkit.bank import MemoryBank
from memkit.encoders import FrequencyEncoder
from memkit.errors import InputError
from memkit.flow import NUM_TRAIN_TIMESTEPS, add_noise, bell_weight, flow_loss
from memkit.injectors import MemoryGate, SelfAttentionConcat
from recipes.dit_mem.data import Batch, TrainingSet
from recipes.dit_mem.parts import load_backbone, new_encoder, run_command, save_encoder
from recipes.dit_mem.presets import Command, Config, parse
from recipes.padded_text import PIPELINE_TEXT_LENGTH, short_text, shorten
from recipes.training import Phase, RunLog, by_noise_level, identity, load_checkpoint, save_checkpoint, tell_cost, timed

LEAST_LR = 0.05  # where the cosine ends
MAY_CHANGE = {"out", "device", "threads", "save_every", "log_every", "sampling_steps", "guidance_scale", "flow_shift"}
MAY_CHANGE |= {"negative_prompt", "videos_at_once", "test_clips", "train_clips"}
"""Settings that a resumed run may change; the others would make another run of it."""


class TextCache:
    """Text embeddings of captions, each computed once, alone, and kept without its padding, on the CPU."""

    def __init__(self, backbone: WanBackbone, length: int) -> None:
        self.backbone = backbone
        self.length = length
        self._known: dict[str, Tensor] = {}

    def __call__(self, captions: list[str]) -> Tensor:
        """[B, length + 1, D] with a zero at the end, or [B, 512, D] at the pipeline's length."""
        rows = torch.stack([self._padded(caption) for caption in captions])
        return rows if self.length == PIPELINE_TEXT_LENGTH else shorten(rows, self.length)

    def _padded(self, caption: str) -> Tensor:
        if caption not in self._known:
            text = self.backbone.encode_text([caption])[0].cpu()
            real = int(text.ne(0).any(dim=1).nonzero().max()) + 1
            if real > self.length:
                raise InputError(f"{caption!r} has {real} text tokens; pass --text-length {real} or more.")
            self._known[caption] = text[:real].clone()
        known = self._known[caption]
        return nn.functional.pad(known, (0, 0, 0, self.length - len(known)))


def backward(
    backbone: WanBackbone,
    encoder: FrequencyEncoder,
    gate: MemoryGate | None,
    text: TextCache,
    batch: Batch,
    weighting: str = "uniform",
) -> Tensor:
    """Leave the gradients of one batch on encoder and gate; the flow-matching loss of each sample [B], unweighted.

    The backward pass is inside the attachment, since checkpointing runs the blocks again in it.
    One timestep a sample. A model with per-token timesteps (Wan2.2 TI2V) takes it for all tokens, which is the same.
    """
    device, dtype = backbone.device, backbone.transformer.dtype
    latents, noise, sigma = (x.to(device) for x in (batch.latents, batch.noise, batch.sigma))
    memory = encoder(batch.memory.to(device), batch.mask.to(device))
    noisy = add_noise(latents, noise, sigma).to(dtype)
    with SelfAttentionConcat(memory, gate).attach(backbone.transformer):
        timestep = sigma * NUM_TRAIN_TIMESTEPS
        velocity = backbone.velocity(noisy, timestep, text(batch.captions).to(device, dtype))
        loss = flow_loss(velocity, latents, noise)
        weight = bell_weight(timestep) if weighting == "bell" else torch.ones_like(loss)
        (weight * loss).mean().backward()
    return loss.detach()


def learning_rate(config: Config, step: int) -> float:
    """Of one step: linear warm-up, then constant or a cosine."""
    share = min(1.0, (step + 1) / max(1, config.warmup))
    if config.schedule == "cosine":
        done = min(1.0, max(0, step - config.warmup) / max(1, config.steps - config.warmup))
        share *= LEAST_LR + (1 - LEAST_LR) * 0.5 * (1 + math.cos(math.pi * done))
    return config.lr * share


def average_gradients(parameters: list[nn.Parameter], world: int) -> None:
    """The mean of the gradients of all processes, in one message."""
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([grad.flatten() for grad in grads])
    torch.distributed.all_reduce(flat)
    for grad, mean in zip(grads, flat.div_(world).split([g.numel() for g in grads]), strict=True):
        grad.copy_(mean.view_as(grad))


def train(config: Config, backbone: WanBackbone, data: TrainingSet, rank: int = 0, world: int = 1) -> FrequencyEncoder:
    """Train to ``config.steps``; what is in ``config.out`` is gone on with. Only rank 0 writes."""
    encoder, gate = new_encoder(config, backbone)
    modules = nn.ModuleDict({"encoder": encoder.train()} | ({} if gate is None else {"gate": gate}))
    parameters = list(modules.parameters())
    faster = config.gate_lr / config.lr
    groups = [{"params": list(m.parameters()), "faster": faster if m is gate else 1.0} for m in modules.values()]
    optimizer = torch.optim.AdamW(groups, lr=config.lr, weight_decay=0.0)
    file, start = config.out / "checkpoint.pt", 0
    about = identity(config, MAY_CHANGE, processes=world, bank=data.bank.fingerprint)
    if state := load_checkpoint(file, about):
        modules.load_state_dict(state["modules"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    text = TextCache(backbone, config.text_length)
    short = config.text_length < PIPELINE_TEXT_LENGTH
    if config.checkpointing:
        backbone.transformer.enable_gradient_checkpointing()
    with short_text(backbone.transformer, config.text_length) if short else contextlib.nullcontext():
        if rank == 0 and start < config.steps:
            _tell(config, backbone, encoder, gate, text, data, start)
        log = RunLog(config.out, "dit-mem", start, config.steps) if rank == 0 else None
        for step in range(start, config.steps):
            batch = data.batch(step, rank)
            loss = backward(backbone, encoder, gate, text, batch, config.weighting)
            if world > 1:
                average_gradients(parameters, world)
            norm = nn.utils.clip_grad_norm_(parameters, config.clip_norm)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, step) * group["faster"]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if log is None:
                continue
            row = {"step": step, "loss": loss.mean().item(), **by_noise_level(loss, batch.sigma)}
            log.step({**row, "norm": norm.item()} if step % config.log_every == 0 else None)
            if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
                save_encoder(config.encoder_folder, encoder, gate)
                state = {"modules": modules.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
                save_checkpoint(state, file, about)
    if log is not None:
        log.close()
    if config.checkpointing:
        backbone.transformer.disable_gradient_checkpointing()
    return encoder.eval()


def _tell(
    config: Config,
    backbone: WanBackbone,
    encoder: FrequencyEncoder,
    gate: MemoryGate | None,
    text: TextCache,
    data: TrainingSet,
    start: int,
) -> None:
    """Say what the steps from ``start`` on will cost, from a step of a copy."""
    encoder, gate = copy.deepcopy((encoder, gate))
    batch = data.batch(start)
    seconds = timed(lambda: backward(backbone, encoder, gate, text, batch, config.weighting))
    weights = sum(p.numel() for module in (encoder, gate) if module is not None for p in module.parameters()) * 4
    # a checkpoint is the weights and two moments, the encoder once more; two lie there while one replaces the other
    tell_cost("dit-mem", [Phase("all", config.steps - start, seconds)], 8 * weights, config.out)


def main(command: Command) -> int:
    """Train; the exit code."""
    config = command.config
    if not (config.bank / "bank.json").exists():
        raise InputError(f"There is no bank {config.bank}; run recipes.dit_mem.prepare first.")
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world > 1:
        cuda = torch.cuda.is_available()
        torch.distributed.init_process_group("nccl" if cuda else "gloo")
        if cuda:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backbone = load_backbone(config)
    data = TrainingSet(MemoryBank.open(config.bank), config)
    if rank == 0:
        print(f"{len(data.ids)} targets, {data.short} of them with fewer than {config.k} clips of memory")
    train(config, backbone, data, rank, world)
    if world > 1:
        torch.distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    run_command(lambda: main(parse(Command, __doc__)))
