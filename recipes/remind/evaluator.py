"""Where clips are made, by a run or a control, and measured, each once."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from memkit.backbones import WanBackbone
from memkit.cameras import Cameras
from memkit.generation import generate_latents
from memkit.injectors import AttentionRecorder, recovery_attention
from memkit.positions import PMRoPE
from memkit.report import contact_sheet
from memkit.streaming import read_everything
from memkit.streaming.read_policies import Read
from memkit.video import from_model, to_model, write_video
from recipes.common.results import ResultStore
from recipes.remind.clips import WorldClip
from recipes.remind.data import Clips
from recipes.remind.presets import STRIDE, Config
from recipes.remind.records import Record, chunk_spans, frames_of, twin_of
from recipes.remind.rolling import Part, Roller
from recipes.remind.scores import Row, Truth, score, truth_of


@dataclass(frozen=True)
class Sizes:
    """How much is made, at once, and kept."""

    clips: int
    noise_seed: int
    at_once: int
    keep: int


class Attends(NamedTuple):
    """See `recipes.remind.scores.Row`."""

    before: float
    newest: float
    mirror: float


NOWHERE = Attends(math.nan, math.nan, math.nan)


class Made(NamedTuple):
    """Latents of whole clips, and where each looked."""

    latents: Float[Tensor, "batch channels frames height width"]
    attends: list[Attends]


@dataclass(frozen=True)
class Evaluator:
    """What all of an evaluation shares; ``backbone`` and ``positions`` are of a run, or of the base model and None."""

    config: Config
    clips: Clips
    sizes: Sizes
    backbone: WanBackbone
    positions: PMRoPE | None

    @property
    def ids(self) -> list[str]:
        """Those that are measured."""
        return list(self.clips.records)[: self.sizes.clips]

    def measure(self, condition: str, rows: ResultStore[Row]) -> None:
        """Make and score the clips that are missing, several at once, all interrupted at the same place."""
        lack = rows.missing(condition, self.ids)
        groups: dict[tuple[int, int], list[str]] = defaultdict(list)
        for id in lack:
            groups[self.clips.records[id].hidden].append(id)
        bar = tqdm(total=len(lack), desc=condition, disable=not lack)
        for hidden, some in groups.items():
            for start in range(0, len(some), self.sizes.at_once):
                batch = some[start : start + self.sizes.at_once]
                for id, row, shown in self._batch(condition, batch, hidden):
                    rows.add(row)
                    self._keep(rows.file.parent, id, condition, shown)
                bar.update(len(batch))
        bar.close()

    def _batch(self, condition: str, ids: list[str], hidden: tuple[int, int]) -> Iterator[tuple[str, Row, Tensor]]:
        what, _, who = condition.partition(" / ")
        config = self.config
        count = min(self.backbone.video_format.num_frames, config.frames)
        if what == "plain":
            made = Made(self._plain(ids, who, count), [NOWHERE] * len(ids))
        else:
            made = self._recovered(ids, who, hidden)
        for id, latents, attends in zip(ids, made.latents, made.attends, strict=True):
            record, truth = self.clips.records[id], self.truth(id)
            part = slice(1, count) if what == "plain" else frames_of((record.clear, config.latents))
            last_seen = 0 if what == "plain" else STRIDE * (record.hidden[0] - 1)
            if who == "autoencoder":
                frames = self._pixels(self.backbone.encode_video(to_model(truth.frames).to(self.backbone.device)))
            elif who == "frozen":
                frames = truth.frames[last_seen].expand_as(truth.frames)
            else:
                frames = self._pixels(latents[None])
            process = "video" if truth.process is None else truth.process.kind
            scores = score(frames[part], truth, part, last_seen)
            row = Row(id, condition, record.by if what == "recovery" else "nothing", process, *scores, *attends)
            both = torch.cat([frames[: part.stop], truth.frames[: part.stop]], dim=2)
            yield id, row, both

    def truth(self, id: str) -> Truth:
        """What the clip would have shown."""
        config = self.config
        if self.clips.bank.info["of"] == "videos":
            return Truth(self._pixels(self.clips.load([twin_of(id)])[0]), None, config.fps)
        return truth_of(WorldClip(id, config))

    def _recovered(self, ids: list[str], who: str, hidden: tuple[int, int]) -> Made:
        """Whole clips: as they are to the end of the interruption, then made."""
        config = self.config
        latents, cameras = self.clips.load(ids)
        records, spans = [self.clips.records[id] for id in ids], chunk_spans(config)
        given = hidden[1]
        if who in ("autoencoder", "frozen"):
            return Made(latents, [NOWHERE] * len(ids))
        if who.endswith("bidirectional"):
            captions = [self.clips.bank.clip(id).caption for id in ids]
            made = self._bidirectional(ids, captions, latents[:, :, :given], config.frames)
            return Made(made, [NOWHERE] * len(ids))
        parts = [
            Part([r.captions[i] for r in records], b - a, latents[:, :, a : min(b, given)] if a < given else None)
            for i, (a, b) in enumerate(spans)
        ]
        if who == "without the past":
            # a chunk sees itself whole, so what of it was interrupted knows what was not
            read = read_since(min(a for a, _ in spans if a >= hidden[0]))
            return Made(self._roller(ids, cameras, latents, read).roll(parts)[0], [NOWHERE] * len(ids))
        made, recorders = self._roller(ids, cameras, latents).roll(parts, watch=True)
        return Made(made, [attention_of(recorders, b, record, config) for b, record in enumerate(records)])

    def _plain(self, ids: list[str], who: str, count: int) -> Tensor:
        """The same of the twins, from their first latent frame, as many chunks as the video frames take."""
        config = self.config
        latents, cameras = self.clips.load([twin_of(id) for id in ids])
        captions, known = [self.clips.records[id].twin_caption for id in ids], latents[:, :, :1]
        if who.endswith("bidirectional"):
            return self._bidirectional(ids, captions, known, count)
        needed = (count - 1) // STRIDE + 1
        spans = [span for span in chunk_spans(config) if span[0] < needed]
        parts = [Part(captions, b - a, known if a == 0 else None) for a, b in spans]
        return self._roller(ids, cameras, latents).roll(parts)[0]

    def _roller(self, ids: list[str], cameras: Cameras, latents: Tensor, read: Read = read_everything) -> Roller:
        size, frames = (latents.shape[3], latents.shape[4]), latents.shape[2]
        return Roller(
            self.config,
            self.backbone,
            self.positions,
            self._seeds(ids),
            cameras,
            size,
            frames,
            read,
        )

    def _bidirectional(self, ids: list[str], captions: list[str], known: Tensor, count: int) -> Tensor:
        """By the stock pipeline, which sees all frames at once and remembers nothing."""
        config, form = self.config, self.config.form
        form = type(form)(count, form.height, form.width, form.fps)
        return generate_latents(
            WanBackbone.from_pipeline(self.backbone.pipeline(), form),
            captions,
            seeds=self._seeds(ids),
            steps=config.sampling_steps,
            guidance_scale=config.guidance_scale,
            conditioning_latents=known.to(self.backbone.device),
            text_length=config.text_length,
        )

    def _seeds(self, ids: list[str]) -> list[int]:
        return [self.sizes.noise_seed + self.ids.index(id) for id in ids]

    def _pixels(self, latents: Tensor) -> Tensor:
        """Frames of one clip's latents [1,C,F,H,W]."""
        return from_model(self.backbone.decode_latents(latents.to(self.backbone.device))).cpu()

    def _keep(self, out: Path, id: str, condition: str, shown: Tensor) -> None:
        if id not in self.ids[: self.sizes.keep]:
            return
        folder = out / "evaluation" / condition.replace(" / ", "-").replace(", ", "-").replace(" ", "-")
        folder.mkdir(parents=True, exist_ok=True)
        name = id.replace("/", "_")
        write_video(folder / f"{name}.mp4", shown, self.config.fps)
        width = shown.shape[2] // 2
        rows = [("made", shown[:, :, :width]), ("twin", shown[:, :, width:])]
        contact_sheet([(f"{id}: {condition}", rows)], columns=13, height=96).save(folder / f"{name}.png")


def read_since(first: int) -> Read:
    """All of the past from the latent frame ``first`` on."""
    return lambda held, chunk: tuple(p for p in read_everything(held, chunk) if p >= first)


def attention_of(recorders: Sequence[AttentionRecorder], sample: int, record: Record, config: Config) -> Attends:
    """Of one sample, the mean over the chunks made, their steps, layers and frames."""
    start, stop = record.hidden[0], record.clear
    shares = []
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
    return Attends(before, newest, mirror if record.by in ("look-away", "camera-loop") else math.nan)
