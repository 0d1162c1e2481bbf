"""The demo: a bank of video files, three prompts, each generated without and with memory from the same noise.

    memkit demo
    python -m memkit.demo --seed 1 --prompt "a red ball falls on planet Mira" --prompt "a blue cube falls on planet Sol"

It writes ``report.html`` and ``contact_sheet.png`` into ``--out`` and keeps its bank there for the next run.
"""

from __future__ import annotations

import math
import platform
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

import memkit
from memkit.demo.bank import CLIPS, demo_bank, frames_of
from memkit.demo.summary import print_summary, rows, video_tokens, what_to_see
from memkit.errors import InputError, MemkitError
from memkit.files.atomic import atomic_write, write_text, writing

if TYPE_CHECKING:
    from torch import Tensor

# The demo imports what it needs when it runs, so that --help does not wait for torch.

MODEL = Path(__file__).parents[1] / "weights" / "tiny-wan"
ENCODER = Path(__file__).parents[1] / "weights" / "dit-mem-tiny"
PROMPTS = tuple(f"a medium red ivorine ball falls in a meadow on planet {planet}" for planet in ("Mira", "Odin", "Sol"))
START = CLIPS / "start.png"
"""The first frame of the default prompts: the ball, two metres up."""

TITLE = "A video model with a memory"
INTRO = (
    "Each prompt was generated twice from the same noise: once by the model alone, and once with the memory of clips "
    "that were found by their captions."
)
CAVEAT = "One pair proves nothing: python -m recipes.dit_mem.evaluate measures many pairs, with controls."
PLANETS_INTRO = (
    "All videos begin with the same first frame. The model was never trained on these planets, so only the clips show "
    "how fast things fall there: compare the speed of the falls."
)
PLANETS_CAVEAT = (
    "Measured over 96 prompts, memory brings gravity closer to that of the planet, and clips of a wrong planet bring "
    "it closer to theirs; on average it is still off by several m/s², so a single pair may or may not show it "
    "(docs/dit-mem.md)."
)
_MOST = 100_000  # steps, or clips per prompt


@dataclass(frozen=True)
class Demo:
    """Generate videos with memory and without, on this machine, and write a report that compares them."""

    out: Path = Path("out/demo")
    """Folder of the report, the contact sheet and the bank."""
    prompt: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Prompt; repeat the option for several videos. By default three prompts that come with memkit."""
    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 3
    """Number of clips to retrieve per prompt; the encoder was trained with 3."""
    query_pattern: str = r"planet \w+"
    """Regular expression whose match in the prompt, or the matched groups, is the query for retrieval; without a match,
    the query is the whole prompt."""
    image: Path | None = None
    """Image to begin every video with; the default prompts come with one."""
    steps: int = 20
    """Number of denoising steps."""
    guidance_scale: float = 2.0
    """Scale of classifier-free guidance; 1 switches it off."""
    seed: int = 0
    """Seed of the noise, the same for every video."""
    model: Path | None = None
    """Folder of a Wan pipeline; by default tiny-wan, which comes with memkit."""
    encoder: Path | None = None
    """Folder of a FrequencyEncoder trained for the model; by default the one trained for tiny-wan."""

    def run(self) -> int:
        """Run the demo and return the exit code."""
        return main(self)


def main(demo: Demo | None = None) -> int:
    """Run the demo, print where the report is, and return the exit code.

    Raises `MemkitError` if a folder or a setting cannot be used.
    """
    from memkit.report.html import render_report
    from memkit.report.sheet import contact_sheet

    demo = demo or Demo()
    for option, value in (("--steps", demo.steps), ("--k", demo.k)):
        if not 1 <= value <= _MOST:
            raise InputError(f"{option} is {value}; give 1 or more, up to {_MOST}.")
    if not math.isfinite(demo.guidance_scale):
        raise InputError(f"--guidance-scale is {demo.guidance_scale}; give a finite number.")
    started = time.perf_counter()
    _quiet()
    prompts = demo.prompt or PROMPTS
    backbone, encoder = _load(demo)
    backbone.pipeline().set_progress_bar_config(disable=True)
    with writing(demo.out):
        demo.out.mkdir(parents=True, exist_ok=True)
    print(f"bank: {CLIPS} -> {demo.out / 'bank'}", flush=True)
    bank = demo_bank(demo.out / "bank", str(demo.model or "tiny"), backbone)
    conditioning_latents = _first_frame(demo, backbone)
    retriever = memkit.TextRetriever(bank)
    comparisons = []
    for i, prompt in enumerate(prompts):
        print(f"[{i + 1}/{len(prompts)}] {prompt}", flush=True)
        comparisons.append(_compare(demo, prompt, backbone, encoder, bank, retriever, conditioning_latents))
    fps = backbone.video_format.fps
    seconds = time.perf_counter() - started
    ours = not demo.prompt and demo.model is None
    intro, caveat = (f"{INTRO} {PLANETS_INTRO}", f"{CAVEAT} {PLANETS_CAVEAT}") if ours else (INTRO, CAVEAT)
    page = render_report(TITLE, intro, caveat, comparisons, _settings(demo, backbone, bank, seconds), fps)
    report, sheet = demo.out / "report.html", demo.out / "contact_sheet.png"
    write_text(report, page)
    with atomic_write(sheet) as partial:
        contact_sheet([(c.prompt, rows(c)) for c in comparisons]).save(partial, "PNG")
    print_summary(comparisons)
    print(f"{seconds:.0f} s. Report: {report}  Contact sheet: {sheet}")
    return 0


def _load(demo: Demo) -> tuple[memkit.WanBackbone, memkit.FrequencyEncoder]:
    model, encoder = demo.model or MODEL, demo.encoder or ENCODER
    for folder, option in ((model, "--model"), (encoder, "--encoder")):
        if not folder.is_dir():
            raise InputError(f"There is no folder {folder}; reinstall memkit, or give {option} a folder that exists.")
    backbone = memkit.WanBackbone.from_pretrained(model)
    return backbone, memkit.FrequencyEncoder.from_pretrained(encoder)


def _compare(
    demo: Demo,
    prompt: str,
    backbone: memkit.WanBackbone,
    encoder: memkit.FrequencyEncoder,
    bank: memkit.MemoryBank,
    retriever: memkit.TextRetriever,
    conditioning_latents: Tensor | None,
):
    import torch

    from memkit.injectors.attention_recorder import AttentionRecorder
    from memkit.report.html import Comparison, HitClip

    query = _query(demo, prompt)
    hits = retriever(query, k=demo.k)
    latents = bank.latents(hits.ids)
    with torch.no_grad():
        memory = encoder(latents)
    without = _generate(demo, prompt, backbone, conditioning_latents)
    recorder = AttentionRecorder()
    with memkit.SelfAttentionConcat(memory, recorder).attach(*backbone.transformers):
        with_memory = _generate(demo, prompt, backbone, conditioning_latents)
    shares = recorder.shares().mean(-1)
    tokens = video_tokens(backbone, latents.shape[-3:])
    captions = dict(zip(bank.ids, bank.captions, strict=True))
    return Comparison(
        prompt=prompt,
        query=query,
        without=without,
        with_memory=with_memory,
        hits=[HitClip(id, s, captions[id], frames_of(bank, id)) for id, s in zip(hits.ids, hits.scores, strict=True)],
        attention=shares[::2] if demo.guidance_scale > 1 else shares,  # with guidance, every other call is without text
        even_share=memory.tokens.shape[1] / (memory.tokens.shape[1] + tokens) if memory.gate is None else None,
        note=what_to_see(prompt),
    )


def _generate(demo: Demo, prompt: str, backbone: memkit.WanBackbone, conditioning_latents: Tensor | None):
    from memkit.generation.generate import generate_video

    settings = {
        "seed": demo.seed,
        "steps": demo.steps,
        "guidance_scale": demo.guidance_scale,
        "conditioning_latents": conditioning_latents,
    }
    return generate_video(backbone, prompt, **settings).contiguous()


def _first_frame(demo: Demo, backbone: memkit.WanBackbone) -> Tensor | None:
    """Latents of the image to begin with, if there is one."""
    from memkit.video.frames import first_frame
    from memkit.video.pixels import to_model

    image = demo.image or (START if not demo.prompt and demo.model is None else None)
    if image is None:
        return None
    form = backbone.video_format
    return backbone.encode_video(to_model(first_frame(image, form.height, form.width)))


def _query(demo: Demo, prompt: str) -> str:
    """The query for a prompt. A query of all words would retrieve the same scene on any planet."""
    try:
        found = re.search(demo.query_pattern, prompt) if demo.query_pattern else None
    except re.error as error:
        raise InputError(f"--query-pattern {demo.query_pattern!r} is not a regular expression: {error}.") from error
    return (" ".join(filter(None, found.groups())) or found[0]) if found else prompt


def _settings(demo: Demo, backbone: memkit.WanBackbone, bank: memkit.MemoryBank, seconds: float) -> Mapping[str, str]:
    import diffusers
    import torch
    import transformers

    form = backbone.video_format
    return {
        "Model": str(demo.model or "tiny-wan"),
        "Memory encoder": str(demo.encoder or "dit-mem-tiny"),
        "Video": f"{form.num_frames} frames of {form.height}×{form.width} at {form.fps:g} fps",
        "Bank": f"{len(bank)} clips, {demo.k} retrieved per prompt by the cosine similarity of text embeddings",
        "Sampling": f"{demo.steps} steps, guidance scale {demo.guidance_scale:g}",
        "Seed": str(demo.seed),
        "Wall time": f"{seconds:.0f} s on {torch.get_num_threads()} threads, with the bank",
        "Versions": f"memkit {memkit.__version__}, torch {torch.__version__}, diffusers {diffusers.__version__}, "
        f"transformers {transformers.__version__}, Python {platform.python_version()}",
    }


def _quiet() -> None:
    """Switch off the progress bars of the libraries."""
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def _command() -> int:
    try:
        return main(tyro.cli(Demo, prog="python -m memkit.demo"))
    except (MemkitError, OSError) as error:
        print(f"memkit: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(_command())
