"""Filter the hidden states of the frozen model while it samples, to test what low and high frequencies carry.

    python -m recipes.dit_mem.studies.filtering --preset tiny

DiT-Mem (arXiv 2511.19229) claims that a low-pass filter in embedding space keeps appearance, and a high-pass filter
keeps motion and physics. The patch embeddings, or the states after a block, are filtered over the grid of patches, at
every step and in both branches of guidance; nothing is trained. A prompt has the same noise under all conditions, and
each clip is compared with its unfiltered twin.

The row "another seed" shows how much other samples of the prompt differ. "state changed" is the mean square of the
change relative to that of the state; conditions are comparable only at similar values. A filter also hides noise from
the model, which then cannot remove it. The grid of tiny-wan is 5×4×4, so that its only frequencies are 0, 0.2 and 0.4
in time, and 0, 0.25 and 0.5 in space.

Intervals are 95 % bootstraps over prompts. OUT/filtering.json has the clips and the table; a command that was stopped
continues where it was. OUT/filtering has the unfiltered twins and a few videos per condition; OUT/filtering.png shows
the first prompt under the conditions of the greatest strength.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from memkit.backbones import WanBackbone
from memkit.encoders import HighPass, LowPass
from memkit.evaluation import Table, check_settings, from_json, table_to_json, to_json, to_markdown
from memkit.files.checksums import verify_checksum
from memkit.files.json_files import read_json, write_json
from memkit.files.tensors import read_state_dict, write_safetensors
from memkit.generation import generate_videos
from memkit.injectors import filter_hidden_states
from memkit.injectors.hidden_filters import Place, WithMean
from memkit.metrics import compare_with_twin
from memkit.report import contact_sheet
from memkit.training import fingerprint, report_done, run_command
from memkit.video import read_clip, write_video
from memkit.worlds import Event, sample_law
from memkit.worlds.law_clips import FALLS
from recipes.dit_mem.parts import load_backbone
from recipes.dit_mem.presets import Command, parse
from recipes.dit_mem.studies.twins import UNFILTERED, Row, tabulate

ANOTHER = "another seed"
AGAIN = "remove it to generate the clips again"
OTHER_SEED = 1_000_000  # added to the seeds of the second unfiltered run


@dataclass(frozen=True)
class Filtering(Command):
    """The command line."""

    prompts: int = 48
    """Number of prompts, captions of falls on unseen planets."""
    cutoffs: tuple[float, ...] = (0.25,)
    """Cut-off frequencies in cycles per patch, in time and in space, at which the gain is 1/2."""
    strengths: tuple[float, ...] = (1.0, 0.5)
    """Strengths of x + strength·(filtered − x); a negative one amplifies what the filter removes."""
    blocks: tuple[int, ...] = ()
    """Blocks to filter after, in addition to the embeddings; by default the first, the middle and a late block."""
    keep: int = 4
    """Number of videos per condition to keep in OUT/filtering."""


BANDS: dict[str, Callable[[float], nn.Module]] = {
    "low": lambda cutoff: LowPass(cutoff, cutoff),
    "high": lambda cutoff: HighPass(cutoff, cutoff),
    "high and mean": lambda cutoff: WithMean(HighPass(cutoff, cutoff)),
}
"""Filters by name, as functions of the cut-off in cycles per patch, in time and in space."""


class Condition(NamedTuple):
    """The arguments of `filter_hidden_states`; with ``keep`` None nothing is filtered."""

    name: str
    keep: nn.Module | None = None
    place: Place = "embedding"
    strength: float = 1.0

    def on(self, backbone: WanBackbone) -> AbstractContextManager[list[Tensor]]:
        """Filter the backbone; yields the changes that `filter_hidden_states` records."""
        if self.keep is None:
            return nullcontext([])
        return filter_hidden_states(backbone, self.keep, self.place, self.strength)


def conditions(command: Filtering, layers: int) -> list[Condition]:
    """All conditions for a model with ``layers`` blocks, the unfiltered one first."""
    places: list[Place] = ["embedding", *(command.blocks or dict.fromkeys((0, layers // 2, 3 * layers // 4)))]
    return [Condition(UNFILTERED), Condition(ANOTHER)] + [
        Condition(f"{band} {cutoff:g}, {where}, {strength:g}", make(cutoff), place, strength)
        for cutoff in command.cutoffs
        for strength in command.strengths
        for place in places
        for where in [place if place == "embedding" else f"block {place}"]
        for band, make in BANDS.items()
    ]


class FilteredClips:
    """The rows of OUT/filtering.json, to which missing clips are added."""

    def __init__(self, command: Filtering, backbone: WanBackbone) -> None:
        self.command, self.backbone, config = command, backbone, command.config
        self.file, self.folder = config.out / "filtering.json", config.out / "filtering"
        self.folder.mkdir(parents=True, exist_ok=True)
        names = ("dtype", "seed", "sampling_steps", "guidance_scale", "flow_shift", "negative_prompt")
        self.settings = {name: getattr(config, name) for name in names} | {"first prompt": law_of(0).caption}
        self.settings |= {"backbone": fingerprint(*backbone.transformers, backbone.pipeline().vae)}
        self.rows: dict[tuple[str, int], Row] = {}
        if self.file.exists():
            before = read_json(self.file, AGAIN)
            check_settings(self.file, before.get("made_with", {}), self.settings)
            rows = [from_json(Row, clip) for clip in before.get("clips", [])]
            self.rows = {(row.condition, row.prompt): row for row in rows}

    def add(self, condition: Condition) -> None:
        """Add the missing rows of a condition. Whole batches are generated, so that results are bit-equal."""
        prompts, fps = range(self.command.prompts), self.backbone.video_format.fps
        size = self.command.config.videos_at_once
        batches = [prompts[i : i + size] for i in prompts[::size]]
        todo = [batch for batch in batches if any(self.lacks(condition, i) for i in batch)]
        for batch in tqdm(todo, desc=condition.name, disable=not todo):
            videos, doses = self.generate(condition, batch)
            for i, video, dose in zip(batch, videos, doses, strict=True):
                if not self.lacks(condition, i):
                    continue
                if condition.name == UNFILTERED:
                    write_safetensors(self.twin(i), {"video": video}, "twin", {})
                verify_checksum(self.twin(i))
                twin = read_state_dict(self.twin(i), AGAIN)["video"]
                compared = compare_with_twin(video, twin, law_of(i), fps)
                self.rows[condition.name, i] = Row(condition.name, i, dose, **compared._asdict())
                if i < self.command.keep:
                    write_video(self.kept(condition, i), video, fps)
            self.write({})

    def lacks(self, condition: Condition, prompt: int) -> bool:
        """Whether the row or its unfiltered twin is missing."""
        return (condition.name, prompt) not in self.rows or not self.twin(prompt).exists()

    def twin(self, prompt: int) -> Path:
        """File of the unfiltered twin."""
        return self.folder / f"{prompt:02d}.safetensors"

    def kept(self, condition: Condition, prompt: int) -> Path:
        """File of a video that is kept."""
        return self.folder / f"{prompt:02d}-{condition.name.replace(', ', '-')}.mp4"

    def generate(self, condition: Condition, prompts: range) -> tuple[Tensor, list[float]]:
        """The videos, and the mean relative change of the state of each."""
        config, offset = self.command.config, OTHER_SEED if condition.name == ANOTHER else 0
        with condition.on(self.backbone) as changes:
            videos = generate_videos(
                self.backbone,
                [law_of(i).caption for i in prompts],
                seeds=[config.seed + offset + i for i in prompts],
                steps=config.sampling_steps,
                guidance_scale=config.guidance_scale,
                negative_prompt=config.negative_prompt,
                text_length=config.text_length,
            )
        return videos, torch.stack(changes or [torch.zeros(len(prompts))]).mean(0).tolist()

    def write(self, table: Table) -> None:
        """Write all rows and the table."""
        clips = [asdict(row) for row in self.rows.values()]
        content = {"made_with": self.settings, "clips": clips, "table": table_to_json(table)}
        write_json(self.file, to_json(content))


def law_of(prompt: int) -> Event:
    """The event that the prompt of this number describes."""
    return sample_law(random.Random(f"filtering/{prompt}"), "test", FALLS)


def picture(clips: FilteredClips, shown: Sequence[Condition]) -> Image.Image:
    """Contact sheet of the first prompt under these conditions, from the kept videos."""
    form, videos = clips.backbone.video_format, []
    for condition in shown:
        label = condition.name.rsplit(", ", 1)[0].replace("high and mean", "high+mean")
        if len(clips.command.cutoffs) == 1:
            label = label.replace(f" {clips.command.cutoffs[0]:g}", "")
        videos.append((label, read_clip(clips.kept(condition, 0), form.fps, form.num_frames)))
    return contact_sheet([(law_of(0).caption, videos)], height=64)


def run(command: Filtering) -> tuple[FilteredClips, list[Condition]]:
    """Generate the missing clips. Returns all clips and their conditions."""
    backbone = load_backbone(command.config)
    todo = conditions(command, len(backbone.transformer.blocks))
    for condition in todo:
        with condition.on(backbone):
            pass  # raises now rather than after hours
    clips = FilteredClips(command, backbone)
    for condition in todo:
        clips.add(condition)
    return clips, todo


def main(command: Filtering) -> int:
    """Generate what is missing, print and write the table. Returns the exit code."""
    clips, todo = run(command)
    table = tabulate(clips.rows, [condition.name for condition in todo], command.prompts)
    clips.write(table)
    if command.keep:
        strongest = max(command.strengths, key=abs)
        shown = [condition for condition in todo if condition.keep is None or condition.strength == strongest]
        picture(clips, shown).save(clips.file.with_suffix(".png"))
    print(f"{to_markdown(table)}\n")
    report_done(clips.file)
    return 0


if __name__ == "__main__":
    run_command(lambda: main(parse(Filtering, __doc__)))
