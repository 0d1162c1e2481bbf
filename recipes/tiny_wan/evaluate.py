"""Measure tiny-wan: reconstruction, whether the body that a caption names is there, whether given frames are kept.

    python -m recipes.tiny_wan.evaluate --model runs/tiny-wan/transformer/pipeline --out runs/tiny-wan/evaluation

Writes ``figures.json`` and ``samples.png``, the first sixteen seeds. A part that is measured is not measured again.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from PIL import Image
from torch import Tensor

from memkit.backbones import WanBackbone
from memkit.files.atomic import write_text
from memkit.files.json_files import read_json, write_json
from memkit.generation import generate_videos
from memkit.metrics import body_found, bootstrap, correlation, mean_psnr, measure_law, psnr
from memkit.training import CheckedSettings, run_command
from memkit.video import from_model, to_model
from memkit.worlds import Event, sample_law
from memkit.worlds.clip_set import SUITES, ClipSet

_BATCH = 16


@dataclass(frozen=True)
class EvaluateConfig(CheckedSettings):
    """What to measure and with what settings."""

    model: Path = Path("runs/tiny-wan/transformer/pipeline")
    data: Path = Path("runs/tiny-wan/held-out")
    out: Path = Path("runs/tiny-wan/evaluation")
    prompts: int = 128
    known_planets: int = 64
    continued: int = 48
    steps: int = 30
    guidance_scale: float = 3.0
    seed: int = 0


@dataclass(frozen=True)
class Evaluator:
    """The model and the settings, for the parts."""

    config: EvaluateConfig
    backbone: WanBackbone
    clips: ClipSet

    def generate(self, captions: Sequence[str], known: Tensor | None = None) -> Iterator[Tensor]:
        """A video a caption; seeds count from the configured one."""
        for i in range(0, len(captions), _BATCH):
            some = captions[i : i + _BATCH]
            seeds = [self.config.seed + i + j for j in range(len(some))]
            yield from generate_videos(
                self.backbone,
                some,
                seeds=seeds,
                steps=self.config.steps,
                guidance_scale=self.config.guidance_scale,
                conditioning_latents=None if known is None else known[i : i + _BATCH],
            )

    def spread(self, count: int) -> list[int]:
        """Clips of all suites, evenly spread."""
        return np.linspace(0, len(self.clips) - 1, min(count, len(self.clips))).astype(int).tolist()

    def video(self, index: int) -> Tensor:
        """uint8 [T,H,W,3]."""
        return torch.from_numpy(np.array(self.clips[index]))


def interval(*columns: Sequence[float] | np.ndarray, statistic: Callable[..., float] = np.mean) -> list[float | None]:
    """Value and 95 % bounds, bootstrapped over clips; null, as JSON has it, where there is nothing to say."""
    found = bootstrap(statistic, *(np.asarray(column, dtype=float) for column in columns))
    return [round(x, 4) if math.isfinite(x) else None for x in found]


def reconstruction(bench: Evaluator) -> dict[str, Any]:
    """Video PSNR of encoding and decoding held-out clips, in dB: all, and by suite."""
    found: dict[str, list[float]] = {suite: [] for suite in SUITES}
    for i, row in enumerate(bench.clips.rows):
        video = bench.video(i)
        with torch.no_grad():
            back = bench.backbone.decode_latents(bench.backbone.encode_video(to_model(video)))
        found[row["id"].split("/")[0]].append(mean_psnr(psnr(from_model(back), video)))
    every = [value for values in found.values() for value in values]
    return {"all": interval(every), **{suite: interval(values) for suite, values in found.items() if values}}


def named_body(bench: Evaluator) -> dict[str, Any]:
    """Share of captions of unseen planets, materials and substances whose body is found in ≥ 90 % of the frames."""
    config = bench.config
    events = [sample_law(random.Random(f"card/{config.seed}/{i}"), "test") for i in range(config.prompts)]
    videos = list(bench.generate([event.caption for event in events]))
    found = [body_found(video, event) for video, event in zip(videos, events, strict=True)]
    truth = [body_found(event.video(), event) for event in events]
    other = [body_found(video, event) for video, event in zip(videos[1:], events, strict=False)]
    kinds = {
        kind: [f for f, e in zip(found, events, strict=True) if e.kind == kind]
        for kind in sorted({e.kind for e in events})
    }
    _sheet(videos[:16], config.out / "samples.png")
    write_text(config.out / "samples.txt", "\n".join(event.caption for event in events[:16]) + "\n")
    return {
        "found": interval(found),
        "on rendered truth": interval(truth),
        "in the clip of another caption": interval(other),
        "by kind": {kind: [sum(values), len(values)] for kind, values in kinds.items()},
        "gravity": _gravity(events, videos),
    }


def known_planets(bench: Evaluator) -> dict[str, Any]:
    """Does the model know the gravity of the planets it was trained on? Dropped bodies."""
    config = bench.config
    rngs = [random.Random(f"known/{config.seed}/{i}") for i in range(config.known_planets)]
    events = [sample_law(rng, "train", ("drop",)) for rng in rngs]
    return _gravity(events, list(bench.generate([event.caption for event in events])))


def continuation(bench: Evaluator) -> dict[str, Any]:
    """Held-out clips continued from 1 frame (image-to-video) and from 5 (video-to-video), in dB."""
    chosen = bench.spread(bench.config.continued)
    videos = [bench.video(i) for i in chosen]
    captions = [bench.clips.rows[i]["caption"] for i in chosen]
    result = {}
    for given in (1, 5):
        with torch.no_grad():
            known = torch.cat([bench.backbone.encode_video(to_model(video[:given])) for video in videos])
        made = list(bench.generate(captions, known))
        pairs = list(zip(made, videos, strict=True))
        still = [video[given - 1 : given].expand(len(video) - given, -1, -1, -1).contiguous() for video in videos]
        rest = [mean_psnr(psnr(a[given:], b[given:])) for a, b in pairs]
        stills = [mean_psnr(psnr(a, b[given:])) for a, b in zip(still, videos, strict=True)]
        result[f"{given} known"] = {
            "given frames": interval([mean_psnr(psnr(a[:given], b[:given])) for a, b in pairs]),
            # PSNR is infinite where nothing moves, hence the median
            "the rest against the truth": interval(rest, statistic=np.median),
            "a still of the last given frame": interval(stills, statistic=np.median),
        }
        eight = [pairs[i] for i in np.linspace(0, len(pairs) - 1, min(8, len(pairs))).astype(int)]
        _sheet([video for made, truth in eight for video in (truth, made)], bench.config.out / f"known-{given}.png")
    return result


PARTS: dict[str, Callable[[Evaluator], dict[str, Any]]] = {
    "reconstruction": reconstruction,
    "named body": named_body,
    "gravity of known planets": known_planets,
    "continuation": continuation,
}


def main(config: EvaluateConfig) -> dict[str, Any]:
    """Measure what ``figures.json`` lacks."""
    config.out.mkdir(parents=True, exist_ok=True)
    file = config.out / "figures.json"
    figures = read_json(file, "move it away to measure again") if file.exists() else {}
    bench = Evaluator(config, WanBackbone.from_pretrained(config.model), ClipSet(config.data))
    bench.backbone.pipeline().set_progress_bar_config(leave=False)
    for name, part in PARTS.items():
        if name not in figures:
            figures[name] = part(bench)
            write_json(file, figures)
    print(json.dumps(figures, indent=2))
    return figures


def _gravity(events: Sequence[Event], videos: Sequence[Tensor]) -> dict[str, Any]:
    """Fitted against true gravity of the clips in which a body falls by some law."""
    pairs = [(e, measure_law(v, e)) for e, v in zip(events, videos, strict=True) if "gravity" in e.constants]
    fitted = [(e.gravity, m.gravity) for e, m in pairs if m.found and not math.isnan(m.gravity)]  # type: ignore[attr-defined]
    true, made = np.array(fitted).T if fitted else np.zeros((2, 0))
    return {
        "clips": [len(fitted), len(pairs)],
        "correlation": interval(true, made, statistic=correlation),
        "mean absolute error": interval(np.abs(true - made)),
    }


def _sheet(videos: Sequence[Tensor], path: Path) -> None:
    rows = [torch.cat(list(video[::2]), dim=1) for video in videos]
    image = Image.fromarray(torch.cat(rows).numpy())
    image.resize((image.width * 2, image.height * 2), Image.Resampling.NEAREST).save(path)


if __name__ == "__main__":
    run_command(lambda: main(tyro.cli(EvaluateConfig)))
