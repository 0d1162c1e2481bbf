"""Train the video autoencoder of tiny-wan: a small stock AutoencoderKLWan on patchified pixels, as in Wan2.2.

    python -m recipes.tiny_wan.vae --data runs/tiny-wan/worlds --out runs/tiny-wan/vae

Training begins with single frames, because it stalls when it begins with video. It takes about an hour on one core. A
command that was stopped continues where it was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify
from torch import Tensor

from memkit import training
from memkit.training.muon import MuonAdam
from memkit.video import to_model as video_to_model
from memkit.worlds.clip_set import ClipSet

RESUME_OVERRIDES = ("data", "held_out", "out", "device", "threads", "save_every")
"""Settings that a resumed run may change."""


@dataclass(frozen=True)
class VAEConfig(training.CheckedSettings):
    """Sizes and schedule. Training is on the clips in ``data``; the PSNR of clips in ``held_out`` is logged."""

    data: Path = Path("runs/tiny-wan/worlds")
    held_out: Path = Path("runs/tiny-wan/held-out")
    out: Path = Path("runs/tiny-wan/vae")
    base_dim: int = 24
    frame_steps: int = 500
    """Number of steps on single frames."""
    video_steps: int = 1500
    """Number of steps on video, after those."""
    decoder_steps: int = 400
    """Number of steps on video at the end, in which only the decoder is trained and the latents stay the same."""
    frame_batch: int = 12
    video_batch: int = 2
    muon_lr: float = 1e-2
    adam_lr: float = 1e-3
    warmup: int = 40
    video_scale: float = 0.3
    """Learning-rate multiplier on video, whose batches are small."""
    latent_noise: float = 0.1
    """Standard deviation of the noise on the latents, relative to their own."""
    latent_weight: float = 1e-4
    """Weight of the mean square of the latents in the loss."""
    moving_weight: float = 4.0
    """Additional weight of moving pixels in the loss."""
    seed: int = 0
    device: str = "auto"
    threads: int = 1
    save_every: int = 100

    @property
    def steps(self) -> int:
        """Number of steps of the three phases."""
        return self.frame_steps + self.video_steps + self.decoder_steps


def build(base_dim: int = 24) -> AutoencoderKLWan:
    """An autoencoder that compresses 8× in space and 4× in time to 16 channels; 4.2 M parameters by default."""
    return AutoencoderKLWan(
        base_dim=base_dim,
        z_dim=16,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        patch_size=2,
        in_channels=12,
        out_channels=12,
        scale_factor_spatial=8,
        scale_factor_temporal=4,
        latents_mean=[0.0] * 16,
        latents_std=[1.0] * 16,
    )


def schedule(config: VAEConfig, step: int) -> float:
    """Learning-rate multiplier of a step: on frames a linear warm-up to 1, on video ``video_scale``, which a cosine
    reduces to a tenth in the second half of ``video_steps``."""
    if step < config.frame_steps:
        return min(1.0, (step + 1) / config.warmup)
    done = (step - config.frame_steps) / config.video_steps
    return config.video_scale * (0.1 + 0.45 * (1 + math.cos(math.pi * min(max(2 * done - 1, 0.0), 1.0))))


def batch(clips: ClipSet, config: VAEConfig, step: int) -> tuple[Tensor, Tensor]:
    """Clips in [-1, 1] [B,3,T,H,W], and the weights of their pixels, which are larger where something moves."""
    rng = np.random.default_rng((config.seed, step))
    frames_only = step < config.frame_steps
    index = rng.integers(len(clips), size=config.frame_batch if frames_only else config.video_batch)
    video = torch.from_numpy(np.stack([clips[i] for i in index])).float() / 127.5 - 1
    if rng.random() < 0.5:
        video = video[..., torch.from_numpy(rng.permutation(3))]
    if rng.random() < 0.5:
        video = video.flip(3)
    moving = (video - video.median(dim=1, keepdim=True).values).abs().amax(-1, keepdim=True) > 0.08
    weight = 1 + config.moving_weight * moving.float()
    if frames_only:
        t = int(rng.integers(video.shape[1]))
        video, weight = video[:, t : t + 1], weight[:, t : t + 1]
    return video.permute(0, 4, 1, 2, 3), weight.permute(0, 4, 1, 2, 3)


def reconstruct(vae: AutoencoderKLWan, video: Tensor, noise: float = 0.0) -> tuple[Tensor, Tensor]:
    """Reconstruction and latents; ``noise`` is added to the latents in units of their own standard deviation.

    A hook takes the decoder's chunks before ``decode`` clamps them to [-1, 1], where the gradient would be 0.
    """
    latents = vae.encode(video).latent_dist.mean
    noisy = latents + noise * latents.detach().std() * torch.randn_like(latents)
    chunks: list[Tensor] = []
    handle = vae.decoder.register_forward_hook(lambda _m, _a, out: chunks.append(out))  # type: ignore[arg-type]
    try:
        vae.decode(noisy)
    finally:
        handle.remove()
    return unpatchify(torch.cat(chunks, dim=2), vae.config.patch_size), latents


def psnr(a: Tensor, b: Tensor) -> float:
    """PSNR in dB of signals in [-1, 1]."""
    return -10 * math.log10((a.clamp(-1, 1) - b).pow(2).mean().item() / 4)


def to_model(clips: Sequence[np.ndarray]) -> Tensor:
    """uint8 clips [T,H,W,3] to [-1, 1] [B,3,T,H,W]."""
    return torch.cat([video_to_model(torch.from_numpy(np.array(clip))) for clip in clips])


@torch.no_grad()
def video_psnr(vae: AutoencoderKLWan, clips: ClipSet, count: int = 12) -> float:
    """PSNR in dB over ``count`` clips, evenly spread over all suites."""
    chosen = [clips[i] for i in np.linspace(0, len(clips) - 1, min(count, len(clips))).astype(int)]
    videos = to_model(chosen).to(vae.device).split(2)
    return psnr(torch.cat([reconstruct(vae, video)[0] for video in videos]), torch.cat(videos))


def finish(vae: AutoencoderKLWan, clips: ClipSet, out: Path) -> None:
    """Save the model, with the mean and standard deviation per latent channel over 96 clips of all suites."""
    chosen = np.linspace(0, len(clips) - 1, min(96, len(clips))).astype(int)
    video = to_model([clips[i] for i in chosen])
    with torch.no_grad():
        latents = torch.cat([vae.encode(v.to(vae.device)).latent_dist.mean for v in video.split(4)])
    mean, std = latents.mean(dim=(0, 2, 3, 4)), latents.std(dim=(0, 2, 3, 4))
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
    vae.save_pretrained(out)


def _is_matrix(name: str, parameter: Tensor) -> bool:
    return parameter.ndim >= 4 and "conv_in" not in name and "conv_out" not in name and "gamma" not in name


def train_step(
    vae: AutoencoderKLWan, optimizer: MuonAdam, clips: ClipSet, config: VAEConfig, step: int
) -> dict[str, float]:
    """Take one optimizer step, which depends on the state, the seed and ``step`` only. Returns the row to log."""
    torch.manual_seed(config.seed * 1_000_003 + step)
    video, weight = (x.to(vae.device) for x in batch(clips, config, step))
    out, latents = reconstruct(vae, video, config.latent_noise)
    error = out - video
    loss = (weight * (error**2 + 0.2 * error.abs())).mean() + config.latent_weight * latents.pow(2).mean()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
    optimizer.step(schedule(config, step))
    figures = {"loss": loss.item(), "norm": norm.item(), "psnr": psnr(out, video)}
    return {**figures, "latent_std": latents.std().item()}


def report_cost(config: VAEConfig, clips: ClipSet, start: int) -> None:
    """Print the estimated cost of the steps from ``start`` on, measured with another model of the same size."""
    with torch.random.fork_rng():
        vae = build(config.base_dim).to(training.pick_device(config.device))  # pyright: ignore
    optimizer = MuonAdam(vae, config.muon_lr, config.adam_lr, _is_matrix)
    phases = []
    for name, first, end in (("frames", 0, config.frame_steps), ("video", config.frame_steps, config.steps)):
        if (steps := end - max(start, first)) > 0:
            seconds = training.timed(lambda first=first: train_step(vae, optimizer, clips, config, first))
            phases.append(training.Phase(name, steps, seconds))
    weights = sum(p.numel() for p in vae.parameters()) * 4
    # a checkpoint has the weights and up to two moments; while it is replaced, there are two
    training.estimate_cost("autoencoder", phases, 5 * weights, config.out)


def main(config: VAEConfig) -> None:
    """Train, or resume, with a checkpoint every ``save_every`` steps. The encoder is frozen in the last phase."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    clips, held_out = ClipSet(config.data), ClipSet(config.held_out)
    vae = build(config.base_dim)
    training.initialise_vae(vae)
    vae.to(training.pick_device(config.device))  # pyright: ignore  # drawn on the CPU, the same for every device
    optimizer = MuonAdam(vae, config.muon_lr, config.adam_lr, _is_matrix)
    start, checkpoint, run = 0, config.out / "checkpoint.pt", training.run_settings(config, RESUME_OVERRIDES)
    if state := training.load_checkpoint(checkpoint, run):
        with training.restoring(checkpoint):
            vae.load_state_dict(state["vae"])
            optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    if start == config.steps:
        return
    report_cost(config, clips, start)
    frozen_at = config.frame_steps + config.video_steps
    log = training.RunLog(config.out, "autoencoder", start, config.steps)
    for step in range(start, config.steps):
        if step >= frozen_at:
            if not (config.out / "config.json").exists():
                finish(vae, clips, config.out)  # the encoder, and so the statistics of its latents, are final
            vae.encoder.requires_grad_(False)
            vae.quant_conv.requires_grad_(False)
        figures = train_step(vae, optimizer, clips, config, step)
        row = {"step": step, **figures} if step % 10 == 0 else None
        if row and step % 100 == 0:
            row["held_out_psnr"] = video_psnr(vae, held_out)
        log.step(row)
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            state = {"vae": vae.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            training.save_checkpoint(state, checkpoint, run)
    log.close()
    finish(vae, clips, config.out)


if __name__ == "__main__":
    training.run_command(lambda: main(tyro.cli(VAEConfig)))
