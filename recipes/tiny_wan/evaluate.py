"""Evaluate tiny-wan: reconstruction, whether the body named in the caption appears, conditioning frames, gravity.

    python -m recipes.tiny_wan.evaluate --model runs/tiny-wan/transformer/pipeline --out runs/tiny-wan/evaluation

Writes ``figures.json``, and ``samples.png`` with the first sixteen seeds. Parts that ``figures.json`` has are skipped.
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
    """Settings of the evaluation of the pipeline in ``model``, with the held-out clips in ``data``."""

    model: Path = Path("runs/tiny-wan/transformer/pipeline")
    data: Path = Path("runs/tiny-wan/held-out")
    out: Path = Path("runs/tiny-wan/evaluation")
    prompts: int = 128
    """Number of captions in the test of named bodies."""
    known_planets: int = 64
    """Number of drops on planets of the training split."""
    continued: int = 48
    """Number of held-out clips to continue from conditioning frames."""
    steps: int = 30
    """Number of sampling steps."""
    guidance_scale: float = 3.0
    seed: int = 0
    """Seed of the first video; each further video adds 1."""


@dataclass(frozen=True)
class Evaluator:
    """The model, the clips and the settings that the measurements share."""

    config: EvaluateConfig
    backbone: WanBackbone
    clips: ClipSet

    def generate(self, captions: Sequence[str], conditioning_latents: Tensor | None = None) -> Iterator[Tensor]:
        """Generate one video per caption, uint8 [T,H,W,3]."""
        for i in range(0, len(captions), _BATCH):
            prompts = captions[i : i + _BATCH]
            seeds = [self.config.seed + i + j for j in range(len(prompts))]
            yield from generate_videos(
                self.backbone,
                prompts,
                seeds=seeds,
                steps=self.config.steps,
                guidance_scale=self.config.guidance_scale,
                conditioning_latents=None if conditioning_latents is None else conditioning_latents[i : i + _BATCH],
            )

    def spread(self, count: int) -> list[int]:
        """Indices of ``count`` clips, evenly spread over all suites."""
        return np.linspace(0, len(self.clips) - 1, min(count, len(self.clips))).astype(int).tolist()

    def video(self, index: int) -> Tensor:
        """One clip, uint8 [T,H,W,3]."""
        return torch.from_numpy(np.array(self.clips[index]))


def interval(*columns: Sequence[float] | np.ndarray, statistic: Callable[..., float] = np.mean) -> list[float | None]:
    """Value and bounds of the 95 % interval, bootstrapped over clips; None where they are not finite."""
    found = bootstrap(statistic, *(np.asarray(column, dtype=float) for column in columns))
    return [round(x, 4) if math.isfinite(x) else None for x in found]


def reconstruction(bench: Evaluator) -> dict[str, Any]:
    """PSNR in dB of held-out clips after encoding and decoding, over all clips and per suite."""
    found: dict[str, list[float]] = {suite: [] for suite in SUITES}
    for i, row in enumerate(bench.clips.rows):
        video = bench.video(i)
        with torch.no_grad():
            back = bench.backbone.decode_latents(bench.backbone.encode_video(to_model(video)))
        found[row["id"].split("/")[0]].append(mean_psnr(psnr(from_model(back), video)))
    every = [value for values in found.values() for value in values]
    return {"all": interval(every), **{suite: interval(values) for suite, values in found.items() if values}}


def named_body(bench: Evaluator) -> dict[str, Any]:
    """Share of videos in which the body named in the caption is found in ≥ 90 % of the frames; test split."""
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
    """Gravity of generated drops on planets of the training split, against the true gravity."""
    config = bench.config
    rngs = [random.Random(f"known/{config.seed}/{i}") for i in range(config.known_planets)]
    events = [sample_law(rng, "train", ("drop",)) for rng in rngs]
    return _gravity(events, list(bench.generate([event.caption for event in events])))


def continuation(bench: Evaluator) -> dict[str, Any]:
    """PSNR in dB of held-out clips, continued from 1 frame (image-to-video) and from 5 frames (video-to-video)."""
    chosen, out = bench.spread(bench.config.continued), bench.config.out
    videos = [bench.video(i) for i in chosen]
    captions = [bench.clips.rows[i]["caption"] for i in chosen]
    result = {}
    for count in (1, 5):
        with torch.no_grad():
            latents = torch.cat([bench.backbone.encode_video(to_model(video[:count])) for video in videos])
        pairs = list(zip(bench.generate(captions, latents), videos, strict=True))
        still = [video[count - 1 : count].expand(len(video) - count, -1, -1, -1).contiguous() for video in videos]
        rest = [mean_psnr(psnr(a[count:], b[count:])) for a, b in pairs]
        stills = [mean_psnr(psnr(a, b[count:])) for a, b in zip(still, videos, strict=True)]
        result[f"{count} known"] = {
            "given frames": interval([mean_psnr(psnr(a[:count], b[:count])) for a, b in pairs]),
            # PSNR is infinite where nothing moves, hence the median
            "the rest against the truth": interval(rest, statistic=np.median),
            "a still of the last given frame": interval(stills, statistic=np.median),
        }
        eight = [pairs[i] for i in np.linspace(0, len(pairs) - 1, min(8, len(pairs))).astype(int)]
        _sheet([video for generated, truth in eight for video in (truth, generated)], out / f"known-{count}.png")
    return result


PARTS: dict[str, Callable[[Evaluator], dict[str, Any]]] = {
    "reconstruction": reconstruction,
    "named body": named_body,
    "gravity of known planets": known_planets,
    "continuation": continuation,
}


def main(config: EvaluateConfig) -> dict[str, Any]:
    """Measure what is missing in ``figures.json``; returns all figures."""
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
    """Correlation and mean absolute error of the fitted gravity, over the clips in which gravity acts on the body."""
    pairs = [(e, measure_law(v, e)) for e, v in zip(events, videos, strict=True) if "gravity" in e.constants]
    fitted = [(e.gravity, m.gravity) for e, m in pairs if m.found and not math.isnan(m.gravity)]  # type: ignore[attr-defined]
    true, found = np.array(fitted).T if fitted else np.zeros((2, 0))
    return {
        "clips": [len(fitted), len(pairs)],
        "correlation": interval(true, found, statistic=correlation),
        "mean absolute error": interval(np.abs(true - found)),
    }


def _sheet(videos: Sequence[Tensor], path: Path) -> None:
    rows = [torch.cat(list(video[::2]), dim=1) for video in videos]
    image = Image.fromarray(torch.cat(rows).numpy())
    image.resize((image.width * 2, image.height * 2), Image.Resampling.NEAREST).save(path)


if __name__ == "__main__":
    run_command(lambda: main(tyro.cli(EvaluateConfig)))
