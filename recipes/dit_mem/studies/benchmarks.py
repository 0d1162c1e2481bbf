"""The videos that PhyGenBench and VBench score, under the names that their scorers look for (docs/benchmarks.md).

    python -m recipes.dit_mem.studies.benchmarks --preset wan2.1-1.3b --benchmark phygenbench --prompts prompts.json
    python -m recipes.dit_mem.studies.benchmarks --preset wan2.1-1.3b --benchmark vbench --prompts prompts_per_category/

A plan lists the videos; it follows from the prompt files and the seed alone. In the folder of the run, ``videos`` has
the mp4 files and nothing else (VBench takes the suffix of all from the first file it meets), ``about`` the settings of
each, and ``index.json``, at the end, the plan. Videos that exist and are whole are left alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from memkit.errors import InputError
from memkit.files import write_json
from memkit.training import report_done, run_command
from recipes.dit_mem.generate import Job, generate_missing
from recipes.dit_mem.memories import Source
from recipes.dit_mem.presets import Command, parse

_LONGEST = 240  # bytes of a file name without suffix; file systems take 255, and a file being written has a longer one


@dataclass(frozen=True)
class Benchmarks(Command):
    """The command line."""

    benchmark: Literal["phygenbench", "vbench"] = "phygenbench"
    """Which videos to make; the benchmark's own code scores them."""
    prompts: Path | None = None
    """PhyGenBench's prompts.json; VBench's folder of .txt files with one prompt per line, or one such file."""
    first: int = 0
    """Number of prompts of each file to take, for a trial; 0 takes all. The rest can follow later."""
    videos_per_prompt: int = 5
    """Videos per prompt of VBench; its temporal_flickering needs 25."""
    video_name: str = "video_output_{n}.mp4"
    """File name of PhyGenBench's videos; {n} counts its prompts from 1."""
    memory: Source = "retrieved"
    """What each prompt is shown: its retrieved clips, clips drawn at random, or none."""
    bank: Path | None = None
    """The bank of these clips; by default the one that the encoder was trained on."""
    encoder_from: Path | None = None
    """Folder or hub id of the trained encoder; by default OUT/encoder."""
    videos_to: Path | None = None
    """Folder of the videos; by default OUT/BENCHMARK-MEMORY."""


class Planned(NamedTuple):
    """A video of a benchmark: its key in the plan, its file name, and what the benchmark sorts its prompt under."""

    key: str
    file: str
    prompt: str
    seed: int
    categories: tuple[str, ...]


class Entry(NamedTuple):
    """A prompt of PhyGenBench."""

    caption: str
    categories: tuple[str, ...]


# -- PhyGenBench


def read_phygenbench(file: Path) -> list[Entry]:
    """The prompts of a JSON list of ``{caption, physical_laws, sub_category, main_category}``, in its order.

    Raises `InputError` naming the first entry, from 1, that is not so.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} cannot be read as JSON ({error}); download PhyGenBench's prompts.json.") from error
    if not isinstance(content, list) or not content:
        raise InputError(f"{file} is not a list of prompts; download PhyGenBench's prompts.json.")
    return [_entry(f"{file}, entry {n}", found) for n, found in enumerate(content, 1)]


def _entry(where: str, found: Any) -> Entry:
    if not isinstance(found, dict):
        raise InputError(f"{where} is no object but {str(found)[:40]!r}; download the file again.")
    caption = found.get("caption")
    if not isinstance(caption, str) or not caption.strip():
        raise InputError(f"{where} has no caption, or a blank one; download the file again.")
    categories = []
    for key in ("main_category", "sub_category", "physical_laws"):
        value = found.get(key)
        names = [name for name in (value if isinstance(value, list) else [value]) if isinstance(name, str)]
        if not names:
            raise InputError(f"{where} ({caption[:60]!r}) has no {key}; download the file again.")
        categories.append(", ".join(names))
    return Entry(caption, tuple(categories))


def plan_phygenbench(entries: Sequence[Entry], seed: int, video_name: str = Benchmarks.video_name) -> list[Planned]:
    """One video per prompt, all from the same seed (as in DiT-Mem), numbered from 1 in the order of the file."""
    if video_name.count("{n}") != 1 or not video_name.endswith(".mp4") or "/" in video_name or "\\" in video_name:
        raise InputError(f"--video-name {video_name!r} must be a file name that ends in .mp4, with {{n}} in it once.")
    return [
        Planned(f"{n}", video_name.replace("{n}", f"{n}"), entry.caption, seed, entry.categories)
        for n, entry in enumerate(entries, 1)
    ]


# -- VBench


def read_vbench(place: Path) -> dict[str, list[str]]:
    """The prompts of each ``.txt`` file of a folder, or of one file, by its name without suffix, in alphabetical order.

    A prompt is a line, without the blanks around it; blank lines are passed over. Raises `InputError` for a file that
    is no UTF-8 text or has no prompt, and for a prompt that cannot be a file name, naming file and line.
    """
    files = [place] if place.is_file() else sorted(place.glob("*.txt"))
    if not files:
        raise InputError(f"{place} has no .txt file; give VBench's prompts/prompts_per_category or _per_dimension.")
    return {file.stem: _lines(file) for file in files}


def _lines(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read as UTF-8 text ({error}); download it again.") from error
    prompts = [line.strip() for line in lines]
    for n, prompt in enumerate(prompts, 1):
        long = len(prompt.encode()) > _LONGEST - len("-999")
        if long or "/" in prompt or "\0" in prompt:
            # VBench looks for the prompt letter by letter: a video of another name would count as missing.
            why = "is too long for a file name" if long else "has a character that no file name can have"
            raise InputError(f"{file}, line {n}: {prompt[:60]!r} {why}, and VBench finds videos by name; take it out.")
    found = [prompt for prompt in prompts if prompt]
    if not found:
        raise InputError(f"{file} has no prompt; download it again.")
    return found


def plan_vbench(
    prompts: Mapping[str, Sequence[str]], seed: int, videos_per_prompt: int = Benchmarks.videos_per_prompt
) -> list[Planned]:
    """``PROMPT-j.mp4`` for j from 0 up, made from seed + j; a prompt that occurs again is made once."""
    if not 1 <= videos_per_prompt <= 1000:
        raise InputError(f"--videos-per-prompt {videos_per_prompt} must be from 1 to 1000.")
    categories: dict[str, list[str]] = {}
    for category, texts in prompts.items():
        for text in dict.fromkeys(texts):
            categories.setdefault(text, []).append(category)
    return [
        Planned(f"{text}-{j}", f"{text}-{j}.mp4", text, seed + j, tuple(names))
        for text, names in categories.items()
        for j in range(videos_per_prompt)
    ]


# -- both


def plan(options: Benchmarks) -> list[Planned]:
    """All videos of the benchmark, from its prompt files."""
    other = {"phygenbench": "videos_per_prompt", "vbench": "video_name"}[options.benchmark]
    if getattr(options, other) != getattr(Benchmarks, other):
        raise InputError(f"--{other.replace('_', '-')} is not for {options.benchmark}; leave it out.")
    if options.prompts is None or options.first < 0:
        raise InputError(f"{options.benchmark} needs --prompts, its file or folder, and a --first of 0 or more.")
    count = options.first or None
    if options.benchmark == "phygenbench":
        return plan_phygenbench(read_phygenbench(options.prompts)[:count], options.config.seed, options.video_name)
    prompts = {category: texts[:count] for category, texts in read_vbench(options.prompts).items()}
    return plan_vbench(prompts, options.config.seed, options.videos_per_prompt)


def main(options: Benchmarks) -> int:
    """Make the videos of a public benchmark that are missing; the exit code."""
    config, planned = options.config, plan(options)
    folder = options.videos_to or config.out / f"{options.benchmark}-{options.memory}"
    print(f"{options.benchmark}: {len({video.prompt for video in planned})} prompts, {len(planned)} videos")
    jobs = [
        Job(video.prompt, video.seed, folder / "videos" / video.file, folder / "about" / f"{video.key}.json")
        for video in planned
    ]
    generate_missing(config, jobs, options.memory, options.bank, options.encoder_from)
    write_json(folder / "index.json", [video._asdict() for video in planned])
    report_done(folder / "videos", "the benchmark's own scorer on this folder; see docs/benchmarks.md")
    return 0


if __name__ == "__main__":
    run_command(lambda: main(parse(Benchmarks, __doc__)))
