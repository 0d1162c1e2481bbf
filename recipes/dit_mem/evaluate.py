"""Does memory carry the law? Generate names that nothing was trained on, with controls, and measure the pixels.

    python -m recipes.dit_mem.evaluate --preset tiny

The prompts are captions of the test bank, whose constants only other clips of the same names tell. From the same noise
each is generated with no memory; with its retrieved clips (never its own); with as many clips of other names; with any
clips; and with its own clip, the oracle. Above these stands what the estimator says of the clips themselves, rendered
and through the autoencoder: no condition can do better. ``--study`` asks other questions, see
`recipes.dit_mem.conditions`. Intervals are 95 % bootstraps over prompts, for one training run; studies.claims
has several. Every clip is measured once: OUT/measured.jsonl, and beside the test bank for what no memory changes.
``--from-frame`` gives every prompt the first frame of its clip, and has files of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from memkit.backbones import WanBackbone
from memkit.banks import MemoryBank
from memkit.encoders import Encoder, load_encoder
from memkit.errors import InputError
from memkit.generation import generate_videos
from memkit.memory import Memory
from memkit.video import from_model, write_video
from recipes.common.commands import run_command
from recipes.common.results import ResultStore
from recipes.common.training import fingerprint
from recipes.dit_mem.conditions import STUDIES, Condition
from recipes.dit_mem.generate import digest
from recipes.dit_mem.laws import law_of
from recipes.dit_mem.measured import Row, measure
from recipes.dit_mem.memories import encode
from recipes.dit_mem.parts import load_backbone
from recipes.dit_mem.presets import Command, parse
from recipes.dit_mem.tables import Run, report, write

StudyName = Literal["knowledge", "plug", "guidance", "mixture", "encoders"]
CEILINGS = ("rendered truth", "through the autoencoder")


@dataclass(frozen=True)
class Evaluate(Command):
    """The command line."""

    study: StudyName = "knowledge"
    """Which conditions, besides those of "knowledge"."""
    clips: int = 96
    """Prompts, the first of the test bank: three of four fall."""
    noise_seed: int = 42
    """Of the first prompt; they count up. Runs that are compared keep it."""
    from_frame: bool = False
    """Give every prompt the first frame of its clip (image-to-video): what is left to know is the law."""
    keep: int = 8
    """Videos of each condition to keep in OUT/evaluation."""

    @property
    def suffix(self) -> str:
        """Of the files."""
        return "-from-frame" if self.from_frame else ""


@dataclass(frozen=True)
class Evaluator:
    """What all conditions of an evaluation share."""

    command: Evaluate
    backbone: WanBackbone
    bank: MemoryBank
    encoder: Encoder | None = None
    """None for what no memory changes."""

    @property
    def targets(self) -> list[str]:
        """Ids of the prompts."""
        return self.bank.ids[: self.command.clips]

    def generate(self, name: str, condition: Condition, rows: ResultStore[Row]) -> None:
        """Add the rows that a condition lacks; a target has the same noise in all of them."""
        config, fps, targets = self.command.config, self.backbone.video_format.fps, self.targets
        lack = [targets.index(id) for id in rows.missing(name, targets)]
        batches = [lack[i : i + config.videos_at_once] for i in range(0, len(lack), config.videos_at_once)]
        for index in tqdm(batches, desc=name, disable=not batches):
            videos = generate_videos(
                self.backbone,
                [law_of(targets[i]).caption for i in index],
                self.encoder and self._memory(condition, index),
                seeds=[self.command.noise_seed + i for i in index],
                steps=config.sampling_steps,
                guidance_scale=config.guidance_scale,
                negative_prompt=config.negative_prompt,
                memory_guidance=condition.guidance,
                text_length=config.text_length,
                conditioning_latents=self.first_frames([targets[i] for i in index])
                if self.command.from_frame
                else None,
            )
            for i, frames in zip(index, videos, strict=True):
                rows.add(measure(frames, targets[i], name, condition.shown[i], fps))
                if i < self.command.keep:
                    folder = rows.file.parent / f"evaluation{self.command.suffix}"
                    file = folder / f"{i:02d}-{name.replace(' ', '-')}.mp4"
                    file.parent.mkdir(exist_ok=True)
                    write_video(file, frames, fps)

    def _memory(self, condition: Condition, index: Sequence[int]) -> Memory | None:
        """Of some targets, from what they are shown."""
        assert self.encoder is not None
        low, high = (part and [part[i] for i in index] for part in (condition.low, condition.high))
        shown = [condition.shown[i] for i in index]
        return encode(self.encoder, self.bank, low or shown, high or (shown if low else None))

    def first_frames(self, ids: Sequence[str]) -> Tensor:
        """Latents [B,C,1,H,W]; the first of a clip is of its first frame alone."""
        return self.bank.latents([[id] for id in ids])[:, 0, :, :1].float().to(self.backbone.device)

    def without_memory(self) -> Run:
        """What the estimator says of the clips themselves, and of the stock model; beside the test bank."""
        config, made = self.command.config, self._made_with()
        rows = ResultStore(config.test_bank.parent / f"measured-without{self.command.suffix}.jsonl", made, Row)
        form, (rendered, decoded) = self.backbone.video_format, CEILINGS
        for id in tqdm(rows.missing(decoded, self.targets), desc="truth"):
            rows.add(measure(law_of(id).video(form.num_frames, form.fps, form.height), id, rendered, [], form.fps))
            with torch.no_grad():
                video = from_model(self.backbone.decode_latents(self.bank.latents([id])[0]))
            rows.add(measure(video, id, decoded, [], form.fps))
        self.generate("none", Condition([[] for _ in self.targets]), rows)
        return self._of_targets(rows)

    def with_memory(self, conditions: dict[str, Condition]) -> Run:
        """The conditions, in the folder of the run."""
        config = self.command.config
        asked = {name: getattr(config, name) for name in ("k", "text_model", "query_pattern", "seed")}
        made = {**self._made_with(), **asked, "encoder": digest(config.encoder_folder)}
        rows = ResultStore(config.out / f"measured{self.command.suffix}.jsonl", made, Row)
        for name, condition in conditions.items():
            self.generate(name, condition, rows)
        return self._of_targets(rows)

    def _of_targets(self, rows: ResultStore[Row]) -> Run:
        targets = set(self.targets)
        return {key: row for key, row in rows.rows.items() if key[1] in targets}

    def _made_with(self) -> dict[str, Any]:
        config = self.command.config
        names = ("model", "dtype", "sampling_steps", "guidance_scale", "flow_shift", "negative_prompt")
        made = {name: getattr(config, name) for name in names}
        made |= {"bank": self.bank.fingerprint, "noise_seed": self.command.noise_seed}
        return {**made, "backbone": fingerprint(*self.backbone.transformers)}


def evaluate(command: Evaluate) -> tuple[Run, list[str]]:
    """All rows of a study and of "knowledge", and the names of the study's conditions."""
    config = command.config
    bench = open_bench(command)
    bench = replace(bench, encoder=load_encoder(config.encoder_folder).to(bench.backbone.device))
    before = fingerprint(*bench.backbone.transformers)
    rows = bench.without_memory()
    conditions = STUDIES["knowledge"](config, bench.bank, bench.targets)
    del conditions["none"]
    names = [*CEILINGS, "none", *conditions]
    if command.study != "knowledge":
        more = STUDIES[command.study](config, bench.bank, bench.targets)
        names = ["none", "retrieved", "other", *more]
        conditions = {name: conditions[name] for name in ("retrieved", "other")} | more
    rows = {**rows, **bench.with_memory(conditions)}
    if (after := fingerprint(*bench.backbone.transformers)) != before:
        raise AssertionError(f"The backbone has changed from {before} to {after}; this is a bug of memkit.")
    print(f"backbone before and after: sha256 {before[:16]}")
    return rows, names


def open_bench(command: Evaluate) -> Evaluator:
    """The backbone and the test bank, without an encoder."""
    config = command.config
    if not (config.test_bank / "bank.json").exists():
        raise InputError(f"There is no bank {config.test_bank}; run recipes.dit_mem.prepare without --videos.")
    bank = MemoryBank.open(config.test_bank)
    if bank.info.get("world") != "laws" or len(bank) < command.clips:
        raise InputError(f"{config.test_bank} is no bank of {command.clips} clips of the laws world; see prepare.")
    return Evaluator(command, load_backbone(config), bank)


def main(command: Evaluate) -> int:
    """Evaluate; the exit code."""
    config = command.config
    run, names = evaluate(command)
    write(config.out / f"{command.study}{command.suffix}.json", report([run], names))
    return 0


if __name__ == "__main__":
    run_command(lambda: main(parse(Evaluate, __doc__)))
