"""Sample a short video by a method of another paper, beside plain sampling from the same noise.

    python -m recipes.neighbours freelong --out out/freelong
    python -m recipes.neighbours ar-diffusion --lag 20 --frames 9 --out out/ar-diffusion
    python -m recipes.neighbours page     # writes docs/neighbours.md, from the metadata in the code

The folder gets method.mp4, plain.mp4 and sheet.png, which has both.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from memkit.backbones import WanBackbone
from memkit.errors import InputError, nearest
from memkit.files.atomic import writing
from memkit.generation import short_texts
from memkit.report import contact_sheet
from memkit.training import pick_device, run_command
from memkit.video import from_model, write_video
from recipes.neighbours.methods import METHODS
from recipes.neighbours.neighbour import Method
from recipes.neighbours.page import write_page
from recipes.neighbours.video import Video

UNTRAINED = """The authors train: {trained}.
This model was not trained for it: the video shows what is computed, not what the method can do."""


@dataclass(frozen=True)
class Sample:
    """The command line of a method."""

    method: tyro.conf.OmitArgPrefixes[Method]
    out: Path
    """Folder of the results."""
    prompt: str = "a large blue ivorine ball falls in a meadow on planet Mira"
    frames: int = 13
    """Latent frames; tiny-wan's own videos have 5."""
    seed: int = 0
    steps: int = 20
    guidance_scale: float = 3.0
    text_length: int = 32
    """The largest number of text tokens; a smaller one is faster."""
    model: str = "tiny"
    """By default tiny-wan; or a diffusers folder or hub id of a Wan pipeline with one expert."""
    device: str = "auto"


@torch.no_grad()
def sample(config: Sample) -> None:
    """Sample both videos, write them, and say what was done."""
    backbone = WanBackbone.tiny() if config.model == "tiny" else WanBackbone.from_pretrained(config.model)
    backbone.pipeline().to(pick_device(config.device))
    about, options = config.method.about, {"steps": config.steps, "guidance_scale": config.guidance_scale}
    with short_texts(backbone.transformers, config.text_length):
        video = Video.of(
            backbone, config.prompt, config.frames, seed=config.seed, text_length=config.text_length, **options
        )
        latents = {"method": config.method.sample(video), "plain": video.plain()}
    rows = []
    with writing(config.out):
        config.out.mkdir(parents=True, exist_ok=True)
    for name, each in latents.items():
        frames = from_model(backbone.decode_latents(each)).cpu()
        write_video(config.out / f"{name}.mp4", frames, backbone.video_format.fps)
        rows.append((about.title if name == "method" else "plain sampling", frames))
    contact_sheet([(f"{about.title}: {config.prompt}", rows)], columns=12, height=96).save(config.out / "sheet.png")
    change = (latents["method"] - latents["plain"]).square().mean().sqrt() / latents["plain"].std()
    print(f"{about.title} ({about.paper}): {config.method}")
    for name in ("visibility", "timesteps", "positions", "frequencies"):
        print(f"  {name}: {getattr(about, name)}")
    print(UNTRAINED.format(trained=about.trained) if about.trained else "The method needs no training.")
    for each in about.readings:
        print(f"  our reading: {each}")
    same = (
        "the latents are those of plain sampling, bit for bit"
        if torch.equal(*latents.values())
        else (f"the latents differ from those of plain sampling by {change:.2f} of their standard deviation")
    )
    print(f"{config.out}: method.mp4, plain.mp4 and sheet.png; {same}.")


def main(arguments: Sequence[str]) -> None:
    """Run the command line: the name of a method, and its settings."""
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help"):
        print(f"{__doc__}\nMethods: {', '.join(METHODS)}.")
    elif name == "page":
        print(f"The page is {write_page(Path('docs/neighbours.md'))}.")
    elif name in METHODS:
        default = Sample(METHODS[name](), tyro.MISSING)
        sample(tyro.cli(Sample, args=rest, default=default, prog=f"python -m recipes.neighbours {name}"))
    else:
        raise InputError(
            f"There is no method {name!r}; choose one of {', '.join(METHODS)}, or page.{nearest(name, METHODS)}"
        )


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
