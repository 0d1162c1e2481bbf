"""Evaluate whether generated videos continue a process that was hidden, by comparison with the uninterrupted twins.

    python -m recipes.remind.evaluate --preset tiny

- *recovery*: a clip is generated from the end of its interruption on, after all earlier frames as conditioning frames,
  and scored from the first clear frame on (`recipes.remind.scores`). Controls are the same run *without the past* (its
  cache hides the frames before the interruption), the base model, as a stream and bidirectional, the twin through the
  autoencoder (upper bound), and the last frame before the interruption (*frozen*, whose evolution is 0 by definition).
- *plain*: image-to-video of undisturbed clips before and after training, at the length that the base model was trained
  for, which shows what was forgotten.

Every clip is measured once; the rows are in OUT/measured.jsonl, those of the controls beside the banks. Intervals are
95 % bootstraps over clips, for one training run; studies.claims has several runs. For your own videos the truth is the
twin through the autoencoder, and there is no state.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from memkit.backbones import WanBackbone
from memkit.cameras import Cameras
from memkit.evaluation import ResultStore, write_tables
from memkit.files.names import file_names
from memkit.generation import generate_latents
from memkit.injectors import AttentionRecorder, recovery_attention
from memkit.interruptions.timing import frames_of
from memkit.positions import PMRoPE
from memkit.report import contact_sheet
from memkit.streaming import Stream, read_everything
from memkit.streaming.read_policies import Read
from memkit.training import find_trained, fingerprint, load_backbone, open_bank, report_done, run_command
from memkit.video import from_model, to_model, write_video
from recipes.remind.clips import WorldClip
from recipes.remind.presets import SHIPPED, STRIDE, Command, Config, parse
from recipes.remind.records import ClipBank, Record, chunk_spans, twin_of
from recipes.remind.sampler import Chunk, Latents, load_cameras, open_stream, sample_chunks
from recipes.remind.scores import CONTROLS, OWN, PLAIN_CONTROLS, Row, Run, Truth, score, tables, truth_of


@dataclass(frozen=True)
class Evaluate(Command):
    """The command line."""

    clips: int = 60
    """Number of test clips, the first of the bank. In the world, every fifth has fog, which no training clip has."""
    noise_seed: int = 42
    """Seed of the noise of the first clip; each further clip adds 1. Compared runs need the same seed."""
    at_once: int = 12
    """Number of clips per batch."""
    keep: int = 10
    """Number of videos per condition to keep in OUT/evaluation, with a contact sheet."""
    weights: str | None = None
    """Folder of a trained run, or name of weights that memkit ships (remind-tiny); by default OUT."""


def evaluate(command: Evaluate, conditions: Sequence[str] = OWN) -> Run:
    """Measure what is missing. Returns the rows of a run under these conditions and of the controls."""
    config, clips = command.config, open_clips(command.config)
    trained = find_trained(config.out, command.weights, SHIPPED)
    backbone = load_backbone(config, trained=trained)
    positions = load_cameras(config, backbone, trained).eval()
    settings = {"weights": fingerprint(backbone.transformer, positions), "bank": clips.bank.fingerprint}
    rows = ResultStore(config.out / "measured.jsonl", _settings(command) | settings, Row)
    Evaluator(command, clips, backbone, positions).measure(conditions, rows)
    return {**controls(command), **rows.rows}


def controls(command: Evaluate) -> Run:
    """The rows of the controls, which are stored beside the banks, because they are the same for all runs."""
    config, clips = command.config, open_clips(command.config)
    settings = _settings(command) | {"bank": clips.bank.fingerprint}
    rows = ResultStore(config.folder / "controls.jsonl", settings, Row)
    backbone = load_backbone(config)
    Evaluator(command, clips, backbone).measure((*CONTROLS, *PLAIN_CONTROLS), rows)
    return dict(rows.rows)


def _settings(command: Evaluate) -> dict[str, object]:
    """The settings that determine a row, except for the weights."""
    names = ("model", "sampling_steps", "guidance_scale", "shift", "cache_frames", "frames", "chunk")
    return {**{name: getattr(command.config, name) for name in names}, "noise_seed": command.noise_seed}


def open_clips(config: Config) -> ClipBank:
    """The test bank. Raises `InputError` if there is none."""
    prepare = "recipes.remind.prepare (--into test, of your videos)"
    return ClipBank(open_bank(config.folder / "test", prepare), config)


class Attention(NamedTuple):
    """Shares of attention, see `recipes.remind.scores.Row`; NaN if none was recorded."""

    before: float = math.nan
    newest: float = math.nan
    mirror: float = math.nan


class Evaluator:
    """Generates the test clips, with a run or with the base model (``positions`` is None), and scores them."""

    def __init__(
        self, command: Evaluate, clips: ClipBank, backbone: WanBackbone, positions: PMRoPE | None = None
    ) -> None:
        self.command, self.config, self.clips = command, command.config, clips
        self.backbone, self.positions = backbone, positions
        self.ids, self.names = list(clips.records)[: command.clips], file_names(clips.records)

    def measure(self, conditions: Sequence[str], rows: ResultStore[Row]) -> None:
        """Add the missing rows. Clips with the same hidden frames share a batch."""
        size, records = self.command.at_once, self.clips.records
        with rows.progress(conditions, self.ids):
            for condition in conditions:
                for batch in rows.batches(condition, self.ids, size, key=lambda id: records[id].hidden):
                    for row, frames in self._measure_batch(condition, batch):
                        rows.add(row)
                        if row.id in self.ids[: self.command.keep]:
                            self._keep(rows, row, frames)

    def _measure_batch(self, condition: str, ids: list[str]) -> Iterator[tuple[Row, Tensor]]:
        """Yield each row, and the generated frames beside those of the twin."""
        what, _, who = condition.partition(" / ")
        config, plain = self.config, what == "plain"
        count = min(self.backbone.video_format.num_frames, config.frames)
        if plain:
            latents, attention = self._plain(ids, who, count), [Attention()] * len(ids)
        else:
            latents, attention = self._recover(ids, who, self.clips.records[ids[0]].hidden)
        for id, own, attends in zip(ids, latents, attention, strict=True):
            record, truth = self.clips.records[id], self.truth(id)
            part = slice(1, count) if plain else frames_of((record.clear, config.latents))
            last_seen = 0 if plain else STRIDE * (record.hidden[0] - 1)
            if who == "autoencoder":
                frames = self._decode(self.backbone.encode_video(to_model(truth.frames).to(self.backbone.device)))
            elif who == "frozen":
                frames = truth.frames[last_seen].expand_as(truth.frames)
            else:
                frames = self._decode(own[None])
            process = "video" if truth.process is None else truth.process.kind
            scores = score(frames[part], truth, part, last_seen)
            row = Row(id, condition, "nothing" if plain else record.by, process, *scores, *attends)
            yield row, torch.cat([frames[: part.stop], truth.frames[: part.stop]], dim=2)

    def truth(self, id: str) -> Truth:
        """The uninterrupted twin of a clip."""
        if self.clips.bank.info["of"] == "videos":
            return Truth(self._decode(self.clips.load([twin_of(id)])[0]), None, self.config.fps)
        return truth_of(WorldClip(id, self.config))

    def _recover(self, ids: list[str], who: str, hidden: tuple[int, int]) -> tuple[Latents, list[Attention]]:
        """Clips that are generated from the end of the interruption on, and the attention of the generated chunks."""
        latents, cameras = self.clips.load(ids)
        records, spans, count = [self.clips.records[id] for id in ids], chunk_spans(self.config), hidden[1]
        nothing = [Attention()] * len(ids)
        if who in ("autoencoder", "frozen"):
            return latents, nothing
        if who.endswith("bidirectional"):
            captions = [self.clips.bank.clip(id).caption for id in ids]
            return self._bidirectional(ids, captions, latents[:, :, :count], self.config.frames), nothing
        read = read_everything
        if who == "without the past":
            # from the first whole hidden chunk on, as the frames of a chunk attend to each other
            read = read_since(min(a for a, _ in spans if a >= hidden[0]))
        chunks = [
            Chunk([r.captions[i] for r in records], b - a, latents[:, :, a : min(b, count)] if a < count else None)
            for i, (a, b) in enumerate(spans)
        ]
        stream = self._stream(ids, cameras, latents, read)
        sampled, recorders = sample_chunks(stream, chunks, record=who != "without the past")
        if not recorders:
            return sampled, nothing
        return sampled, [attention_of(recorders, i, record, self.config) for i, record in enumerate(records)]

    def _plain(self, ids: list[str], who: str, count: int) -> Latents:
        """Generate the twins from their first frame: the chunks of ``count`` video frames."""
        latents, cameras = self.clips.load([twin_of(id) for id in ids])
        captions, conditioning = [self.clips.records[id].twin_caption for id in ids], latents[:, :, :1]
        if who.endswith("bidirectional"):
            return self._bidirectional(ids, captions, conditioning, count)
        needed = (count - 1) // STRIDE + 1
        spans = [span for span in chunk_spans(self.config) if span[0] < needed]
        chunks = [Chunk(captions, b - a, conditioning if a == 0 else None) for a, b in spans]
        return sample_chunks(self._stream(ids, cameras, latents), chunks)[0]

    def _stream(self, ids: list[str], cameras: Cameras, latents: Latents, read: Read = read_everything) -> Stream:
        size, frames = (latents.shape[3], latents.shape[4]), latents.shape[2]
        return open_stream(self.config, self.backbone, self.positions, self._seeds(ids), cameras, size, frames, read)

    def _bidirectional(self, ids: list[str], captions: list[str], conditioning: Latents, count: int) -> Latents:
        """Generate with the stock pipeline, in which all frames attend to each other."""
        form = replace(self.config.form, num_frames=count)
        return generate_latents(
            WanBackbone.from_pipeline(self.backbone.pipeline(), form),
            captions,
            seeds=self._seeds(ids),
            steps=self.config.sampling_steps,
            guidance_scale=self.config.guidance_scale,
            conditioning_latents=conditioning.to(self.backbone.device),
            text_length=self.config.text_length,
        )

    def _seeds(self, ids: list[str]) -> list[int]:
        return [self.command.noise_seed + self.ids.index(id) for id in ids]

    def _decode(self, latents: Latents) -> Tensor:
        """Decode the frames of one clip."""
        return from_model(self.backbone.decode_latents(latents.to(self.backbone.device))).cpu()

    def _keep(self, rows: ResultStore[Row], row: Row, frames: Tensor) -> None:
        folder = row.condition.replace(" / ", "-").replace(", ", "-").replace(" ", "-")
        file = rows.file.parent / "evaluation" / folder / f"{self.names[row.id]}.mp4"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_video(file, frames, self.config.fps)
        width = frames.shape[2] // 2
        videos = [("generated", frames[:, :, :width]), ("twin", frames[:, :, width:])]
        title = f"{row.id}: {row.condition}"
        contact_sheet([(title, videos)], columns=13, height=96).save(file.with_suffix(".png"))


def read_since(first: int) -> Read:
    """A read policy: all of the past from the latent frame ``first`` on."""
    return lambda held, chunk: tuple(p for p in read_everything(held, chunk) if p >= first)


def attention_of(recorders: Sequence[AttentionRecorder], sample: int, record: Record, config: Config) -> Attention:
    """Attention of one sample, mean over the generated chunks, steps, layers and frames."""
    (start, _), stop, shares = record.hidden, record.clear, []
    for recorder in recorders:
        of = recovery_attention(
            recorder.shares()[:, :, sample],
            recorder.frames,
            recorder.seen,
            event=start,
            peak=(start + stop - 1) / 2,
            newest=config.chunk,
        )
        shares.append([of.before.mean().item(), of.newest.mean().item(), of.mirror.mean().item()])
    before, newest, mirror = torch.tensor(shares).mean(0).tolist()
    return Attention(before, newest, mirror if record.by in ("look-away", "camera-loop") else math.nan)


def main(command: Evaluate) -> int:
    """Evaluate. Returns the exit code."""
    file = command.config.out / "evaluation.json"
    write_tables(file, tables({"remind": [evaluate(command)]}))
    report_done(file, "python -m recipes.remind.studies.claims --claim evolution")
    return 0


if __name__ == "__main__":
    run_command(lambda: main(parse(Evaluate, __doc__)))
