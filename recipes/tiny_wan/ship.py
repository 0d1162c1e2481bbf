"""Measure tiny-wan, then put it and its model card where the package ships it.

python -m recipes.tiny_wan.ship --machine "2 cores of an AMD EPYC, no accelerator"
"""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image

from memkit.backbones import WanBackbone
from memkit.backbones.codec import tiny_folder
from memkit.generate import generate_videos
from memkit.metrics import bootstrap
from memkit.worlds.laws import COLOURS, PLANETS, sample_law
from recipes.tiny_wan.data import load
from recipes.tiny_wan.transformer import TransformerConfig
from recipes.tiny_wan.vae import VAEConfig, psnr, to_model

CARD = Path(__file__).with_name("card.md")


@dataclass(frozen=True)
class ShipConfig:
    """What to measure and where things are. ``machine`` goes into the card as it is given."""

    machine: str
    transformer: Path = Path("runs/tiny-wan/transformer")
    vae: Path = Path("runs/tiny-wan/vae")
    data: Path = Path("runs/tiny-wan/laws")
    out: Path = tiny_folder()
    sheet: Path = Path("out/tiny-wan.png")
    prompts: int = 64
    steps: int = 30
    guidance_scale: float = 3.0
    seed: int = 0


def colour_found(video: np.ndarray, colour: str) -> bool:
    """Whether a body of the named colour is seen in at least nine tenths of the frames.

    In a frame it is seen when at least 12 pixels differ from the middle of their row (floor and sky are alike along a
    row) and are nearer in hue to it than to any other of the world's colours.
    """
    named = torch.tensor(list(COLOURS.values()))
    named = torch.nn.functional.normalize(named, dim=1)
    pixels = torch.from_numpy(video).float() / 255
    row = pixels.median(dim=2, keepdim=True).values
    stands_out = (pixels - row).abs().amax(-1) > 0.15
    unit = torch.nn.functional.normalize(pixels, dim=-1)
    nearest = (unit @ named.T).argmax(-1) == list(COLOURS).index(colour)
    return bool(((stands_out & nearest).sum(dim=(1, 2)) >= 12).float().mean() >= 0.9)


def measure(config: ShipConfig, backbone: WanBackbone) -> dict[str, str]:
    """The figures of the card: reconstruction of held-out clips, and how often the named colour is there."""
    clips, _ = load(config.data)
    video = to_model(clips[-16:])
    back = backbone.decode_latents(backbone.encode_video(video))
    reconstruction = torch.tensor([psnr(a, b) for a, b in zip(back, video, strict=True)])
    laws = [sample_law(random.Random(f"card/{config.seed}/{i}"), "test") for i in range(config.prompts)]
    truth = [colour_found(law.video().numpy(), law.colour) for law in laws]
    made: list[np.ndarray] = []
    for i in range(0, len(laws), 16):
        prompts = [law.caption for law in laws[i : i + 16]]
        seeds = list(range(config.seed + i, config.seed + i + len(prompts)))
        batch = generate_videos(
            backbone, prompts, seeds=seeds, steps=config.steps, guidance_scale=config.guidance_scale
        )
        made += list(batch.numpy())
    found = torch.tensor([colour_found(v, law.colour) for v, law in zip(made, laws, strict=True)]).float()
    _save_sheet(made[:12], config.sheet)
    share, quality = bootstrap(np.mean, found.numpy()), bootstrap(np.mean, reconstruction.numpy())
    return {
        "psnr": f"{quality.value:.1f} dB [{quality.low:.1f}, {quality.high:.1f}]",
        "found": f"{share.value:.2f} [{share.low:.2f}, {share.high:.2f}]",
        "found_truth": f"{sum(truth) / len(truth):.2f}",
    }


def _save_sheet(videos: list[np.ndarray], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [np.concatenate(list(video[::2]), axis=1) for video in videos]
    image = Image.fromarray(np.concatenate(rows))
    image.resize((image.width * 2, image.height * 2), Image.Resampling.NEAREST).save(path)


def minutes_and_loss(folder: Path) -> tuple[float, float]:
    """Minutes over all resumes (a log may count from 0 again after one), and the mean loss of the last ten rows."""
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    seconds = [row["seconds"] for row in rows]
    ends = [a for a, b in zip(seconds, [*seconds[1:], -1.0], strict=True) if b < a]
    return sum(ends) / 60, float(np.mean([row["loss"] for row in rows[-10:]]))


def main(config: ShipConfig) -> None:
    """Copy the pipeline with its two large parts in fp16, measure what was copied, and write the card and the logs."""
    if config.out.exists():
        shutil.rmtree(config.out)
    pipe = WanBackbone.from_pretrained(config.transformer / "pipeline").pipeline()
    pipe.transformer.half()
    pipe.vae.half()
    pipe.save_pretrained(config.out)
    shutil.copy(config.transformer / "pipeline" / "video_format.json", config.out)
    for name, folder in (("vae", config.vae), ("transformer", config.transformer)):
        shutil.copy(folder / "log.jsonl", config.out / f"{name}_log.jsonl")
    backbone = WanBackbone.from_pretrained(config.out)
    pipe = backbone.pipeline()
    millions = {
        n: sum(p.numel() for p in getattr(pipe, n).parameters()) / 1e6 for n in ("transformer", "vae", "text_encoder")
    }
    vae_minutes, _ = minutes_and_loss(config.vae)
    transformer_minutes, transformer_loss = minutes_and_loss(config.transformer)
    figures = {
        **measure(config, backbone),
        **{f"{name}_millions": f"{value:.1f}" for name, value in millions.items()},
        "megabytes": f"{sum(f.stat().st_size for f in config.out.rglob('*.safetensors')) / 1e6:.1f}",
        "machine": config.machine,
        "vae_steps": str(VAEConfig().steps),
        "vae_minutes": f"{vae_minutes:.0f}",
        "transformer_steps": str(TransformerConfig().steps),
        "transformer_minutes": f"{transformer_minutes:.0f}",
        "transformer_loss": f"{transformer_loss:.3f}",
        "train_planets": ", ".join(PLANETS["train"]),
        "prompts": str(config.prompts),
        "steps": str(config.steps),
        "guidance_scale": str(config.guidance_scale),
        "clips": str(len(load(config.data)[1])),
    }
    (config.out / "README.md").write_text(CARD.read_text().format(**figures))
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main(tyro.cli(ShipConfig))
