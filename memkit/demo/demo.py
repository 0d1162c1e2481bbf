"""The demo: a bank of video files, three prompts, each generated without and with memory from the same noise.

    memkit demo
    memkit demo --seed 1 --prompt "a red ball falls on planet Mira" --prompt "a blue cube falls on planet Sol"

It writes ``report.html`` and ``contact_sheet.png`` into ``--out`` and keeps its bank there for the next run. For its
own prompts it also writes ``figures.json``, with the gravity of every fall, and the falls themselves in ``falls/``.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

import memkit
from memkit.demo.bank import CLIPS, demo_bank
from memkit.errors import InputError
from memkit.files.atomic import writing
from memkit.quiet import quiet_libraries

if TYPE_CHECKING:
    from torch import Tensor

    from memkit.demo.falls import Falls
    from memkit.demo.stage import Stage
    from memkit.report.html import Comparison

# The demo imports what it needs when it runs, so that --help does not wait for torch.

MODEL = Path(__file__).parents[1] / "weights" / "tiny-wan"
ENCODER = Path(__file__).parents[1] / "weights" / "dit-mem-tiny-falls"
PLANETS = ("Mira", "Odin", "Sol")
START = CLIPS / "start.png"
"""The first frame of the default prompts: the ball, two metres up."""

TEXT_LENGTH = 28
"""Text tokens of the demo's own prompts; more are padding."""
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
    steps: int = 8
    """Number of denoising steps."""
    guidance_scale: float = 1.0
    """Scale of classifier-free guidance; 1 switches it off."""
    memory_guidance: Literal["conditional"] | float | None = None
    """Whether guidance amplifies memory: "conditional" or a scale, see ``memkit.generation.guidance``. By default both
    branches of guidance see the memory."""
    seed: int = 0
    """Seed of the noise, the same for every video; the first one of several."""
    planets: tuple[str, ...] = PLANETS
    """Planets of the demo's own prompts, of Mira, Nova, Odin, Pax, Rhea and Sol."""
    seeds: int = 16
    """Number of seeds per prompt of the demo's own; a prompt of yours has one."""
    model: Path | None = None
    """Folder of a Wan pipeline; by default tiny-wan, which comes with memkit."""
    encoder: Path | None = None
    """Folder of a FrequencyEncoder trained for the model; by default one that was trained for falls with tiny-wan."""

    @property
    def shows_falls(self) -> bool:
        """Whether the demo measures the falls of its own prompts: with other prompts or another model, it does not."""
        return not self.prompt and self.model is None

    def run(self) -> int:
        """Run the demo and return the exit code."""
        return main(self)


def main(demo: Demo | None = None) -> int:
    """Run the demo, print where the report is, and return the exit code.

    Raises `MemkitError` if a folder or a setting cannot be used.
    """
    from memkit.demo.gallery import WEIGHTS, gallery_figures

    demo = demo or Demo()
    _check(demo)
    started = time.perf_counter()
    quiet_libraries()
    with ExitStack() as stack:
        gallery = None
        if demo.shows_falls and WEIGHTS.is_dir():
            seeds = range(demo.seed, demo.seed + demo.seeds)
            gallery = stack.enter_context(_second_process()).submit(gallery_figures, seeds, demo.out / "gallery")
        _make(demo, started, gallery)
    return 0


def _make(demo: Demo, started: float, gallery: Future[dict[str, Any]] | None) -> None:
    """Generate and measure the videos, and write the pages, with what the second process finds in a gallery."""
    from memkit.demo.falls import Falls, fall_on
    from memkit.demo.pages import write_pages
    from memkit.demo.stage import Stage
    from memkit.generation.short_text import PIPELINE_TEXT_LENGTH

    backbone, encoder = _load(demo)
    backbone.pipeline().set_progress_bar_config(disable=True)
    with writing(demo.out):
        demo.out.mkdir(parents=True, exist_ok=True)
    print(f"bank: {CLIPS} -> {demo.out / 'bank'}", flush=True)
    bank = demo_bank(demo.out / "bank", str(demo.model or "tiny"), backbone)
    stage = Stage(
        backbone=backbone,
        encoder=encoder,
        bank=bank,
        retriever=memkit.TextRetriever(bank),
        k=demo.k,
        steps=demo.steps,
        guidance_scale=demo.guidance_scale,
        memory_guidance=demo.memory_guidance,
        conditioning_latents=_first_frame(demo, backbone),
        text_length=TEXT_LENGTH if demo.shows_falls else PIPELINE_TEXT_LENGTH,
    )
    falls = None
    if demo.shows_falls:
        falls = Falls(demo.out / "falls", range(demo.seed, demo.seed + demo.seeds), backbone.video_format.fps)
    comparisons = []
    prompts = demo.prompt or [fall_on(planet).caption for planet in demo.planets]
    for i, prompt in enumerate(prompts):
        print(f"[{i + 1}/{len(prompts)}] {prompt}", flush=True)
        comparisons.append(_compare(demo, stage, prompt, falls))
    settings = {
        "Model": str(demo.model or "tiny-wan"),
        "Memory encoder": str(demo.encoder or ENCODER.name),
        "Seed": str(demo.seed),
    }
    found = None if gallery is None else gallery.result()
    write_pages(demo.out, stage, comparisons, falls, found, settings, time.perf_counter() - started)


@contextmanager
def _second_process() -> Iterator[ProcessPoolExecutor]:
    """A process beside this one, which leaves it one core: faster than all cores for one after the other.

    With one thread it can be forked even where torch has already started threads in this process.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before - 1))
    try:
        with ProcessPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)


def _check(demo: Demo) -> None:
    from memkit.demo.falls import WRONG

    for option, value in (("--steps", demo.steps), ("--k", demo.k), ("--seeds", demo.seeds)):
        if not 1 <= value <= _MOST:
            raise InputError(f"{option} is {value}; give 1 or more, up to {_MOST}.")
    if not demo.planets or (unknown := set(demo.planets) - WRONG.keys()):
        raise InputError(f"--planets are {sorted(unknown) if demo.planets else 'none'}; give some of {sorted(WRONG)}.")
    if not math.isfinite(demo.guidance_scale):
        raise InputError(f"--guidance-scale is {demo.guidance_scale}; give a finite number.")


def _load(demo: Demo) -> tuple[memkit.WanBackbone, memkit.FrequencyEncoder]:
    model, encoder = demo.model or MODEL, demo.encoder or ENCODER
    for folder, option in ((model, "--model"), (encoder, "--encoder")):
        if not folder.is_dir():
            raise InputError(f"There is no folder {folder}; reinstall memkit, or give {option} a folder that exists.")
    backbone = memkit.WanBackbone.from_pretrained(model)
    return backbone, memkit.FrequencyEncoder.from_pretrained(encoder)


def _compare(demo: Demo, stage: Stage, prompt: str, falls: Falls | None) -> Comparison:
    """Generate a prompt without and with memory; and measure it for all seeds if it is a fall of the demo."""
    from memkit.demo.falls import WRONG
    from memkit.injectors.attention_recorder import AttentionRecorder

    seeds, recorder = [demo.seed] if falls is None else falls.seeds, AttentionRecorder()
    found = stage.find(_query(demo, prompt))
    without = stage.generate(prompt, None, seeds)
    right = stage.generate(prompt, found, seeds, recorder)
    if falls is not None:
        planet = prompt.split()[-1]
        falls.add(planet, "without", without)
        falls.add(planet, "right", right)
        falls.add(planet, "wrong", stage.generate(prompt, stage.find(f"planet {WRONG[planet]}"), seeds))
    return stage.comparison(prompt, found, without[0], right[0], recorder)


def _first_frame(demo: Demo, backbone: memkit.WanBackbone) -> Tensor | None:
    """Latents of the image to begin with, if there is one."""
    from memkit.video.frames import first_frame
    from memkit.video.pixels import to_model

    image = demo.image or (START if demo.shows_falls else None)
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
