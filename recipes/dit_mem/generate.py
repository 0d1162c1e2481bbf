"""Generate videos with memory: one MP4 and one JSON file per prompt. Existing videos are kept.

    python -m recipes.dit_mem.generate --preset tiny --bank runs/dit-mem-tiny/bank-test \\
        --prompts "a small red rubber ball falls and bounces in a lab on planet Mira"
    python -m recipes.dit_mem.generate --preset wan2.1-1.3b --csv prompts.csv --memory retrieved

See `memkit.prompts.usable_prompts` for the columns of the CSV file. Bad rows are listed, and make the exit code 1.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from torch import Tensor
from tqdm import tqdm

from memkit.backbones import WanBackbone
from memkit.banks import MemoryBank
from memkit.display import counted
from memkit.encoders import MemoryEncoder, load_encoder
from memkit.errors import InputError
from memkit.files.atomic import hash_files
from memkit.generation import VideoJob, generate_videos
from memkit.hub import shipped_folder
from memkit.prompts import usable_prompts
from memkit.retrievers import Hits
from memkit.training import open_bank, report_done, run_command
from memkit.video import first_frame, to_model
from recipes.dit_mem.memories import Source, encode, find
from recipes.dit_mem.parts import digest, load_backbone
from recipes.dit_mem.presets import Command, Config, parse


@dataclass(frozen=True)
class Generate(Command):
    """The command line."""

    prompts: tuple[str, ...] = ()
    """Prompts, one video each."""
    csv: Path | None = None
    """CSV file of prompts, in addition to --prompts or instead."""
    image: Path | None = None
    """Picture to begin every video with, or a video of which the first frame is used (image-to-video). The backbone
    must support conditioning frames, as tiny-wan and Wan2.2-TI2V-5B do."""
    memory: Source = "retrieved"
    """Memory of each prompt: its retrieved clips, random clips, or none."""
    bank: Path | None = None
    """Bank of the clips; by default the one that the encoder was trained on."""
    encoder_from: Annotated[Path | None, tyro.conf.arg(aliases=["--weights"])] = None
    """Folder or hub id of a trained encoder, or name of one that memkit ships (dit-mem-tiny); default OUT/encoder."""
    videos_to: Path | None = None
    """Folder of the videos; by default OUT/videos-MEMORY."""
    skip_bad: bool = False
    """Exit with status 0 even if some prompts could not be used; they are listed either way."""


def settings_of(
    config: Config, memory: Source, encoder: Path, bank: MemoryBank | None, image: Path | None = None
) -> dict[str, Any]:
    """All settings that determine a video, except for its prompt and its seed; they are written into the JSON file."""
    try:
        first = {} if image is None else {"image": hash_files(image)}
    except OSError as error:
        raise InputError(f"{image} cannot be read ({error}); give a picture or a video.") from error
    with_memory = {} if bank is None else {"encoder": digest(encoder), "k": config.k, "bank": bank.fingerprint}
    asked = {"text_model": config.text_model, "query_pattern": config.query_pattern}
    return {
        "model": config.model,
        "dtype": config.dtype,
        "seed": config.seed,
        "steps": config.sampling_steps,
        "guidance_scale": config.guidance_scale,
        "flow_shift": config.flow_shift,
        "negative_prompt": config.negative_prompt,
        "memory": memory,
        **first,
        **with_memory,
        **(asked if memory == "retrieved" else {}),
    }


def generate_missing(
    config: Config,
    jobs: Sequence[VideoJob],
    memory: Source,
    bank: Path | None,
    encoder: Path | None,
    image: Path | None = None,
) -> None:
    """Generate the videos that do not exist yet, in batches; ``bank`` and ``encoder`` default to those of the run.

    Raises `InputError`, before anything is generated, if a video exists that was generated with other settings.
    """
    place = config.encoder_folder if memory == "none" else encoder_place(config, encoder)
    opened = None if memory == "none" else open_bank(bank or config.bank, "recipes.dit_mem.prepare, or give --bank")
    settings = settings_of(config, memory, place, opened, image)
    todo = [job for job in jobs if not job.is_done(settings)]
    print(f"{counted(len(todo), 'video')} to generate, {len(jobs) - len(todo)} exist already", file=sys.stderr)
    if not todo:
        return
    for folder in {path.parent for job in todo for path in (job.video, job.about)}:
        folder.mkdir(parents=True, exist_ok=True)
    backbone = load_backbone(config)
    encoding = None if opened is None else load_encoder(place, config.encoder).to(backbone.device)
    hits = [Hits([], [])] * len(todo)
    if opened is not None:
        hits = find(config, opened, [job.prompt for job in todo], memory, [_own(opened, job) for job in todo])
    conditioning = None if image is None else conditioning_latents_of(backbone, image)
    at_once = config.videos_at_once
    for start in tqdm(range(0, len(todo), at_once), desc="generate", unit="batch"):
        some = slice(start, start + at_once)
        _generate_batch(config, backbone, encoding, opened, todo[some], hits[some], settings, conditioning)


def encoder_place(config: Config, encoder: Path | None) -> Path:
    """The folder or hub id of the encoder: that of the run, ``encoder``, or of the shipped weights of that name.

    Raises `InputError` where the run has none.
    """
    if encoder is None:
        if not config.encoder_folder.is_dir():
            ready = "give --encoder-from dit-mem-tiny, which memkit ships"
            raise InputError(f"There is no encoder {config.encoder_folder}; run recipes.dit_mem.train, or {ready}.")
        return config.encoder_folder
    if not encoder.is_dir() and (shipped := shipped_folder(str(encoder))) is not None:
        print(f"The weights are {encoder}, which memkit ships.")
        return shipped
    return encoder


def conditioning_latents_of(backbone: WanBackbone, image: Path) -> Tensor:
    """Latents [1,C,1,H,W] of a picture, or of the first frame of a video, at the size of the backbone."""
    form = backbone.video_format
    return backbone.encode_video(to_model(first_frame(image, form.height, form.width)).to(backbone.device))


def _own(bank: MemoryBank, job: VideoJob) -> list[str]:
    """Clips of the bank that are the prompt's own video or were cut from it."""
    return [id for id, source in zip(bank.ids, bank.sources, strict=True) if id in job.own or source in job.own]


def _generate_batch(
    config: Config,
    backbone: WanBackbone,
    encoder: MemoryEncoder | None,
    bank: MemoryBank | None,
    jobs: Sequence[VideoJob],
    hits: Sequence[Hits],
    settings: dict[str, Any],
    conditioning: Tensor | None,
) -> None:
    """Generate and write one batch."""
    memory = None if bank is None or encoder is None else encode(encoder, bank, [found.ids for found in hits])
    videos = generate_videos(
        backbone,
        [job.prompt for job in jobs],
        memory,
        seeds=[job.seed for job in jobs],
        steps=config.sampling_steps,
        guidance_scale=config.guidance_scale,
        negative_prompt=config.negative_prompt,
        conditioning_latents=conditioning,
    )
    captions = {} if bank is None else dict(zip(bank.ids, bank.captions, strict=True))
    for job, found, frames in zip(jobs, hits, videos, strict=True):
        # another process may have generated it; or the file system ignores case, and it is that of another prompt
        if not job.is_done(settings):
            pairs = zip(found.ids, found.scores, strict=True)
            shown = [{"id": id, "score": score, "caption": captions[id]} for id, score in pairs]
            job.write(frames, backbone.video_format.fps, settings, hits=shown)


def main(command: Generate) -> int:
    """Generate the missing videos. Returns the exit code."""
    config = command.config
    folder = command.videos_to or config.out / f"videos-{command.memory}"
    prompts, bad = usable_prompts(command.prompts, command.csv)
    for item in bad:
        print(f"{item.name}: {item.reason}", file=sys.stderr)
    jobs = [
        VideoJob(prompt.text, config.seed, folder / f"{prompt.name}.mp4", folder / f"{prompt.name}.json", prompt.own)
        for prompt in prompts
    ]
    generate_missing(config, jobs, command.memory, command.bank, command.encoder_from, command.image)
    report_done(folder)
    return 1 if bad and not command.skip_bad else 0


if __name__ == "__main__":
    run_command(lambda: main(parse(Generate, __doc__)))
