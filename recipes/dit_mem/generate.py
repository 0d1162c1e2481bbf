"""Generate videos with memory: an mp4 and a JSON file a prompt; those already there are left alone.

    python -m recipes.dit_mem.generate --preset tiny --bank runs/dit-mem-tiny/bank-test \\
        --prompts "a small red rubber ball falls and bounces in a lab on planet Mira"
    python -m recipes.dit_mem.generate --preset wan2.1-1.3b --csv prompts.csv --memory retrieved

The CSV has the column caption and, where the videos should be named by it, video (or Video, video_path). A clip of the
bank with that name, and all of its source, is kept out of the prompt's memory.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from memkit.backbones import WanBackbone
from memkit.bank import MemoryBank
from memkit.encoders import FrequencyEncoder
from memkit.errors import InputError
from memkit.generate import generate_videos
from memkit.injectors import MemoryGate
from memkit.retrievers import Hits
from memkit.video import write_video
from recipes.dit_mem.memories import Source, encode, find
from recipes.dit_mem.parts import load_backbone, load_encoder, run_command
from recipes.dit_mem.presets import Command, Config, parse


@dataclass(frozen=True)
class Generate(Command):
    """The command line."""

    prompts: tuple[str, ...] = ()
    """What to generate."""
    csv: Path | None = None
    """File of prompts, besides or instead of these."""
    memory: Source = "retrieved"
    """What each prompt is shown: its retrieved clips, clips drawn by chance, or none."""
    bank: Path | None = None
    """Where the clips come from; by default the bank that the encoder was trained on."""
    encoder_from: Path | None = None
    """Folder or hub id of the trained encoder; by default OUT/encoder."""
    videos_to: Path | None = None
    """By default OUT/videos-MEMORY."""


class Prompt(NamedTuple):
    """``name`` is that of the files, without suffix; ``own`` are ids that a clip of the same video would have."""

    name: str
    text: str
    own: list[str]


def read_prompts(prompts: Sequence[str], file: Path | None) -> list[Prompt]:
    """All prompts, named; equal ones once. Raises `InputError` for a bad file, a blank prompt or a name used twice."""
    found = [Prompt(_slug(text), text, []) for text in prompts]
    if file is not None:
        found += _read_csv(file)
    if not found:
        raise InputError("There is nothing to generate; give --prompts or --csv.")
    named: dict[str, Prompt] = {}
    for prompt in found:
        if not prompt.text.strip():
            raise InputError(f"The prompt {prompt.name!r} is blank; write one, or take it out.")
        if named.setdefault(prompt.name, prompt) != prompt:
            raise InputError(f"Two prompts are named {prompt.name!r}; give them names of their own.")
    return list(named.values())


def _read_csv(file: Path) -> list[Prompt]:
    try:
        with open(file, encoding="utf-8-sig", newline="") as opened:
            rows = [
                {(key or "").strip().lower(): value or "" for key, value in row.items()}
                for row in csv.DictReader(opened)
            ]
    except (OSError, UnicodeDecodeError, csv.Error, AttributeError) as error:
        raise InputError(f"{file} cannot be read as CSV ({error}); give UTF-8 with a line of column names.") from error
    if not rows or "caption" not in rows[0]:
        raise InputError(f"{file} has no column caption, or no row; give one row a prompt.")
    prompts = []
    for row in rows:
        video = (row.get("video") or row.get("video_path") or "").strip()
        own = [video, Path(video).stem] if video else []
        prompts.append(Prompt(_safe(Path(video).stem) if video else _slug(row["caption"]), row["caption"], own))
    return prompts


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:80] or "video"


def _slug(text: str) -> str:
    return f"{_safe(text)[:60].rstrip('.-')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def settings_of(command: Generate, encoder: Path, bank: MemoryBank | None) -> dict[str, Any]:
    """All that a video depends on besides its prompt; it goes into the JSON file."""
    config = command.config
    with_memory = {} if bank is None else {"encoder": _digest(encoder), "k": config.k, "bank": bank.fingerprint}
    asked = {"text_model": config.text_model, "query_pattern": config.query_pattern}
    return {
        "model": config.model,
        "dtype": config.dtype,
        "seed": config.seed,
        "steps": config.sampling_steps,
        "guidance_scale": config.guidance_scale,
        "flow_shift": config.flow_shift,
        "negative_prompt": config.negative_prompt,
        "memory": command.memory,
        **with_memory,
        **(asked if command.memory == "retrieved" else {}),
    }


def _digest(encoder: Path) -> str:
    """Of the weights in a local folder; a hub id stands for itself."""
    files = sorted(encoder.glob("*.safetensors"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest() if files else str(encoder)


def is_done(folder: Path, prompt: Prompt, settings: dict[str, Any]) -> bool:
    """Whether the video is there; `InputError` if it was made in another way, for it is never overwritten."""
    about = folder / f"{prompt.name}.json"
    if not about.exists():
        return False
    before = json.loads(about.read_text())
    changed = [key for key, value in settings.items() if before["settings"].get(key) != value]
    if before["prompt"] != prompt.text or changed:
        what = ", ".join(changed) or "another prompt"
        raise InputError(f"{about} was made with other settings ({what}); give another --videos-to, or remove it.")
    return True


def main(command: Generate) -> int:
    """Generate what is missing; the exit code."""
    config = command.config
    prompts = read_prompts(command.prompts, command.csv)
    folder = command.videos_to or config.out / f"videos-{command.memory}"
    place = command.encoder_from or config.encoder_folder
    bank = None if command.memory == "none" else MemoryBank.open(command.bank or config.bank)
    settings = settings_of(command, place, bank)
    todo = [prompt for prompt in prompts if not is_done(folder, prompt, settings)]
    print(f"{len(todo)} videos to make, {len(prompts) - len(todo)} are there", file=sys.stderr)
    if not todo:
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    backbone = load_backbone(config)
    encoder, gate = (None, None) if bank is None else load_encoder(place, backbone)
    hits = [Hits([], [])] * len(todo)
    if bank is not None:
        hits = find(config, bank, [p.text for p in todo], command.memory, [_own(bank, p) for p in todo])
    at_once = config.videos_at_once
    for start in tqdm(range(0, len(todo), at_once), desc="generate", unit="batch"):
        some = slice(start, start + at_once)
        _make(config, backbone, encoder, gate, bank, todo[some], hits[some], settings, folder)
    return 0


def _own(bank: MemoryBank, prompt: Prompt) -> list[str]:
    """Clips of the bank that are the prompt's own video, or cut from it."""
    return [id for id, source in zip(bank.ids, bank.sources, strict=True) if id in prompt.own or source in prompt.own]


def _make(
    config: Config,
    backbone: WanBackbone,
    encoder: FrequencyEncoder | None,
    gate: MemoryGate | None,
    bank: MemoryBank | None,
    prompts: Sequence[Prompt],
    hits: Sequence[Hits],
    settings: dict[str, Any],
    folder: Path,
) -> None:
    """One batch; a video's JSON file is written last, so one without it is made again."""
    memory = None if bank is None or encoder is None else encode(encoder, bank, [found.ids for found in hits])
    videos = generate_videos(
        backbone,
        [prompt.text for prompt in prompts],
        memory,
        seeds=[config.seed] * len(prompts),
        steps=config.sampling_steps,
        guidance_scale=config.guidance_scale,
        negative_prompt=config.negative_prompt,
        gate=gate,
    )
    captions = {} if bank is None else dict(zip(bank.ids, bank.captions, strict=True))
    for prompt, found, frames in zip(prompts, hits, videos, strict=True):
        write_video(folder / f"{prompt.name}.mp4", frames, backbone.video_format.fps)
        shown = [{"id": i, "score": s, "caption": captions[i]} for i, s in zip(found.ids, found.scores, strict=True)]
        about = {"prompt": prompt.text, "seed": config.seed, "hits": shown, "settings": settings}
        partial = folder / f".{prompt.name}.json.partial"
        partial.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n")
        os.replace(partial, folder / f"{prompt.name}.json")


if __name__ == "__main__":
    run_command(lambda: main(parse(Generate, __doc__)))
