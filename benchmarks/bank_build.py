"""Building a bank from mp4 files: the share of the time that passes outside of the autoencoder.

    python -m benchmarks.bank_build --out out/bank_build.json

Videos of 480×832 at 24 frames per second (h264) are decoded, resampled, resized and encoded by a stock Wan VAE with
random weights, one clip after another, and with the next videos decoded meanwhile, as `memkit.banks.build_bank` does.
The two ways take turns, and give equal banks. Outside of the autoencoder is the wall-clock time of the whole build less
that of its calls. On a CPU the VAE has a third of Wan's width, small frames, and one thread, so that a core is left to
decode; with a CUDA device, it has Wan's size and frames.
"""

from __future__ import annotations

import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor

from benchmarks.common import report
from benchmarks.performance.rows import Bench, Row
from memkit.backbones import VideoFormat, WanCodec
from memkit.banks import MemoryBank
from memkit.banks.build import add_rows, bank_for, clip_settings, encode_file, encode_rows
from memkit.banks.captions import Row as Video
from memkit.metrics import bootstrap
from memkit.video import resize, write_video
from memkit.worlds import sample_law


@dataclass(frozen=True)
class Settings:
    """Sizes and repeats."""

    clips: int = 6
    rounds: int = 3
    seconds: float = 2.1
    """Length of the videos."""
    out: Path = Path("out/bank_build.json")


class TimedCodec(WanCodec):
    """Counts the seconds of its calls."""

    seconds = 0.0

    def encode_video(self, video: Tensor) -> Tensor:
        """As `WanCodec.encode_video`; latents on the CPU."""
        start = time.perf_counter()
        latents = super().encode_video(video).cpu()
        self.seconds += time.perf_counter() - start
        return latents


def codec() -> TimedCodec:
    """The VAE and format of this machine."""
    torch.manual_seed(0)
    if torch.cuda.is_available():
        vae = AutoencoderKLWan().eval()
        vae.to("cuda")  # pyright: ignore[reportArgumentType]  # diffusers wraps it without its types
        return TimedCodec(vae, VideoFormat(49, 480, 832, 24.0))
    torch.set_num_threads(1)
    return TimedCodec(AutoencoderKLWan(base_dim=32).eval(), VideoFormat(17, 128, 128, 8.0))


def videos(folder: Path, settings: Settings) -> list[Video]:
    """Rendered falls and bounces, enlarged and written as h264."""
    rows = []
    for n in range(settings.clips):
        small = sample_law(random.Random(n)).video(fps=24.0)[: round(24 * settings.seconds)]
        write_video(folder / f"{n}.mp4", resize(small, 480, 832), 24.0)
        rows.append(Video(n, folder / f"{n}.mp4", f"clip {n}", f"{n}", f"{n}"))
    return rows


def measure(settings: Settings) -> dict[str, Any]:
    """Seconds of each way per round: of the build, and of the autoencoder."""
    encoder = codec()
    given = clip_settings(encoder, "benchmark")
    with tempfile.TemporaryDirectory() as folder:
        rows = videos(Path(folder), settings)
        ways = {
            "one after another": lambda bank: add_rows(
                bank, rows, lambda row: encode_file(row.file, encoder, given), False
            ),
            "decoded ahead": lambda bank: encode_rows(bank, rows, encoder, given, False),
        }
        found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        prints = set()
        for turn in range(settings.rounds):
            for way, build in ways.items():
                out = Path(folder) / f"{way} {turn}"
                encoder.seconds, start = 0.0, time.perf_counter()
                with bank_for(out, given) as bank:
                    assert not build(bank).bad
                found[way].append((time.perf_counter() - start, encoder.seconds))
                prints.add(MemoryBank.open(out).fingerprint)
    assert len(prints) == 1, "both ways make the same bank"
    outside = {way: [1 - inside / whole for whole, inside in pairs] for way, pairs in found.items()}
    speed = [a[0] / b[0] for a, b in zip(found["one after another"], found["decoded ahead"], strict=True)]
    return {
        "seconds per clip": {
            way: round(float(np.median([whole for whole, _ in pairs])) / settings.clips, 3)
            for way, pairs in found.items()
        },
        "share outside of the autoencoder": {way: median(shares) for way, shares in outside.items()},
        "one after another / decoded ahead": median(speed),
    }


def median(values: list[float]) -> list[float]:
    """The median, with its 95 % interval over rounds."""
    return [float(value) for value in bootstrap(lambda x: float(np.median(x)), np.array(values))]


def rows(bench: Bench) -> list[Row]:
    """Rows of the performance table; these are wall-clock times, which need a machine without other load."""
    found = measure(Settings(rounds=min(bench.rounds, 3)))
    outside = found["share outside of the autoencoder"]
    return [
        Row("bank build from mp4 files: share of the time outside of the autoencoder", *outside["decoded ahead"], 0.1),
        Row("the same without decoding ahead", *outside["one after another"]),
    ]


def main(settings: Settings) -> None:
    """Measure and print the figures."""
    report(measure(settings), settings, settings.out)


if __name__ == "__main__":
    main(tyro.cli(Settings))
