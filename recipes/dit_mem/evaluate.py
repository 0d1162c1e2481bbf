"""Evaluate whether generated videos follow the physical constants that only the memory clips show.

    python -m recipes.dit_mem.evaluate --preset tiny

The prompts are captions of the test bank, with unseen names of planets, materials and substances. Each is generated
from the same noise without memory; with its retrieved clips (never its own); with as many clips of other names; with
random clips; and with its own clip, the oracle. The upper bound is what is measured on the clips themselves, rendered
and through the autoencoder. ``--study`` compares other conditions, see `recipes.dit_mem.conditions`. Intervals are 95 %
bootstraps over prompts, for one training run; studies.claims has several runs. Every video is measured once; the rows
are in OUT/measured.jsonl, those without memory beside the test bank. ``--from-frame`` conditions every prompt on the
first frame of its clip, and has separate files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from memkit.backbones import WanBackbone
from memkit.banks import MemoryBank
from memkit.encoders import MemoryEncoder, load_encoder
from memkit.errors import InputError
from memkit.evaluation import ResultStore, write_tables
from memkit.generation import generate_videos
from memkit.memory import Memory
from memkit.training import fingerprint, open_bank, report_done, run_command
from memkit.video import from_model, write_video
from memkit.worlds.law_clips import law_of
from recipes.dit_mem.conditions import STUDIES, Condition
from recipes.dit_mem.memories import encode
from recipes.dit_mem.parts import digest, load_backbone
from recipes.dit_mem.presets import Command, parse
from recipes.dit_mem.scores import UNITS, Row, Run, digits, measure, tables

StudyName = Literal["knowledge", "plug", "guidance", "mixture", "encoders"]
CEILINGS = ("rendered truth", "through the autoencoder")


@dataclass(frozen=True)
class Prompts(Command):
    """Flags of the commands that generate the prompts of the test bank."""

    clips: int = 96
    """Number of prompts, the first of the test bank; three of four are falls."""
    noise_seed: int = 42
    """Seed of the noise of the first prompt; each further prompt adds 1. Compared runs need the same seed."""
    from_frame: bool = False
    """Condition every prompt on the first frame of its clip (image-to-video)."""
    keep: int = 8
    """Number of videos per condition to keep in the folder "evaluation" beside the rows."""

    @property
    def suffix(self) -> str:
        """Suffix of the file names."""
        return "-from-frame" if self.from_frame else ""


@dataclass(frozen=True)
class Evaluate(Prompts):
    """The command line."""

    study: StudyName = "knowledge"
    """Conditions to compare, in addition to those of "knowledge"."""


def evaluate(command: Evaluate) -> tuple[Run, list[str]]:
    """Measure what is missing. Returns all rows of the study and of "knowledge", and the names of its conditions."""
    config, evaluator = command.config, open_evaluator(command)
    encoder = load_encoder(config.encoder_folder, config.encoder).to(evaluator.backbone.device)
    evaluator = replace(evaluator, encoder=encoder)
    before = fingerprint(*evaluator.backbone.transformers)
    rows = evaluator.measure_without_memory()
    conditions = STUDIES["knowledge"](config, evaluator.bank, evaluator.targets)
    del conditions["none"]
    names = [*CEILINGS, "none", *conditions]
    if command.study != "knowledge":
        more = STUDIES[command.study](config, evaluator.bank, evaluator.targets)
        names = ["none", "retrieved", "other", *more]
        conditions = {name: conditions[name] for name in ("retrieved", "other")} | more
    rows = {**rows, **evaluator.measure_with_memory(conditions)}
    if (after := fingerprint(*evaluator.backbone.transformers)) != before:
        raise AssertionError(f"The backbone has changed from {before} to {after}; this is a bug of memkit.")
    print(f"backbone before and after: sha256 {before[:16]}")
    return rows, names


def open_evaluator(command: Prompts) -> Evaluator:
    """The backbone and the test bank, without an encoder.

    Raises `InputError` for a bank that is not of the laws world or has too few clips.
    """
    config = command.config
    bank = open_bank(config.test_bank, "recipes.dit_mem.prepare without --videos")
    if bank.info.get("world") != "laws" or len(bank) < command.clips:
        raise InputError(f"{config.test_bank} is no bank of {command.clips} clips of the laws world; see prepare.")
    return Evaluator(command, load_backbone(config), bank)


@dataclass(frozen=True)
class Evaluator:
    """Generates the prompts of the test bank under each condition, and scores each video once."""

    command: Prompts
    backbone: WanBackbone
    bank: MemoryBank
    encoder: MemoryEncoder | None = None
    """None generates without memory."""

    @property
    def targets(self) -> list[str]:
        """Ids of the prompts' clips."""
        return self.bank.ids[: self.command.clips]

    def measure(self, name: str, condition: Condition, rows: ResultStore[Row]) -> None:
        """Add the missing rows of a condition. A target has the same noise under all conditions."""
        config, fps, targets = self.command.config, self.backbone.video_format.fps, self.targets
        folder = rows.file.parent / f"evaluation{self.command.suffix}"
        for batch in rows.batches(name, targets, config.videos_at_once):
            index = [targets.index(id) for id in batch]
            first = self.first_frames(batch) if self.command.from_frame else None
            videos = generate_videos(
                self.backbone,
                [law_of(id).caption for id in batch],
                self.memory(condition, index),
                seeds=[self.command.noise_seed + i for i in index],
                steps=config.sampling_steps,
                guidance_scale=config.guidance_scale,
                negative_prompt=config.negative_prompt,
                memory_guidance=condition.guidance,
                text_length=config.text_length,
                conditioning_latents=first,
            )
            for i, frames in zip(index, videos, strict=True):
                rows.add(measure(frames, targets[i], name, condition.shown[i], fps))
                if i < self.command.keep:
                    folder.mkdir(exist_ok=True)
                    write_video(folder / f"{i:02d}-{name.replace(' ', '-')}.mp4", frames, fps)

    def memory(self, condition: Condition, index: Sequence[int]) -> Memory | None:
        """The memory of the targets ``index`` under a condition."""
        if self.encoder is None:
            return None
        low, high = (part and [part[i] for i in index] for part in (condition.low, condition.high))
        shown = [condition.shown[i] for i in index]
        return encode(self.encoder, self.bank, low or shown, high or (shown if low else None))

    def first_frames(self, ids: Sequence[str]) -> Tensor:
        """Latents [B,C,1,H,W] of the first frames. In Wan, the first latent frame encodes the first frame only."""
        return self.bank.latents([[id] for id in ids])[:, 0, :, :1].float().to(self.backbone.device)

    def measure_without_memory(self) -> Run:
        """The rows of the clips themselves and of the model without memory, which are stored beside the test bank."""
        file = self.command.config.test_bank.parent / f"measured-without{self.command.suffix}.jsonl"
        rows, form = ResultStore(file, self._settings(), Row), self.backbone.video_format
        rendered, decoded = CEILINGS
        with rows.progress([decoded, "none"], self.targets):
            for (id,) in rows.batches(decoded, self.targets, 1):
                rows.add(measure(law_of(id).video(form.num_frames, form.fps, form.height), id, rendered, [], form.fps))
                with torch.no_grad():
                    video = from_model(self.backbone.decode_latents(self.bank.latents([id])[0]))
                rows.add(measure(video, id, decoded, [], form.fps))
            replace(self, encoder=None).measure("none", Condition([[] for _ in self.targets]), rows)
        return self._of_targets(rows)

    def measure_with_memory(self, conditions: dict[str, Condition]) -> Run:
        """The rows of ``conditions``, which are stored in the folder of the run."""
        config = self.command.config
        settings = {name: getattr(config, name) for name in ("k", "text_model", "query_pattern", "seed")}
        settings = {**self._settings(), **settings, "encoder": digest(config.encoder_folder)}
        rows = ResultStore(config.out / f"measured{self.command.suffix}.jsonl", settings, Row)
        with rows.progress(conditions, self.targets):
            for name, condition in conditions.items():
                self.measure(name, condition, rows)
        return self._of_targets(rows)

    def _of_targets(self, rows: ResultStore[Row]) -> Run:
        targets = set(self.targets)
        return {key: row for key, row in rows.rows.items() if key[1] in targets}

    def _settings(self) -> dict[str, Any]:
        config = self.command.config
        names = ("model", "dtype", "sampling_steps", "guidance_scale", "flow_shift", "negative_prompt")
        settings = {name: getattr(config, name) for name in names}
        settings |= {"bank": self.bank.fingerprint, "noise_seed": self.command.noise_seed}
        return {**settings, "backbone": fingerprint(*self.backbone.transformers)}


def main(command: Evaluate) -> int:
    """Evaluate. Returns the exit code."""
    run, names = evaluate(command)
    file = command.config.out / f"{command.study}{command.suffix}.json"
    write_tables(file, tables([run], names), UNITS, digits)
    report_done(file, f"python -m recipes.dit_mem.studies.claims --claim {command.study}")
    return 0


if __name__ == "__main__":
    run_command(lambda: main(parse(Evaluate, __doc__)))
