"""How far parts of a cache change what a model predicts, measured against a cache that holds everything exactly.

    python -m benchmarks.cache_errors  # tiny-wan, a few minutes on one CPU core

Videos of 7 chunks are generated with the full cache. Then the first 6 are written to a cache of each kind, each chunk
reading what that cache holds by then, and the velocity of the last chunk is compared at three noise levels: its error
is ‖v − v_full‖ / ‖v_full‖, the mean over videos with a 95 % interval. "nothing" is the error without any frame read.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

import torch
import tyro
from scipy import stats
from torch import Tensor

from memkit import KVCache, WanBackbone
from memkit.flow import NUM_TRAIN_TIMESTEPS, add_noise
from memkit.generation import frame_noise
from memkit.injectors import frame_bytes
from memkit.injectors.kv_cache import (
    NVFP4,
    AttentionReceived,
    BFloat16,
    CacheParts,
    Consecutive,
    EMASummary,
    Float8,
    FutureAttention,
    Integers,
    KeyDifference,
    KeyNorm,
    OnCPU,
    OnDisk,
    Pooled,
    PooledQuery,
    Pruned,
    PrunedChunks,
    QueryStatistics,
    Sink,
    SinkBeforeWindow,
)
from memkit.streaming import Stream, StreamConfig, read_everything

CHUNK, CHUNKS, SIZE = 3, 7, (8, 8)
SIGMAS = (0.9, 0.6, 0.3)
PROMPT = "a medium red ivorine ball falls in a meadow"


def caches(frame: int, folder: str, statistics: QueryStatistics) -> dict[str, tuple[int, CacheParts]]:
    """The caches to compare: frames within the first budget, and parts."""
    past: int = CHUNK * (CHUNKS - 1)
    raw: dict[str, Any] = {"rotated": False}
    return {
        "keys before rotation": (past, CacheParts(**raw)),
        "9 frames on the CPU": (9, CacheParts(spill=(OnCPU(9 * frame),))),
        "9 frames on disk": (9, CacheParts(spill=(OnDisk(9 * frame, folder),))),
        "bf16": (past, CacheParts(storage=BFloat16())),
        "fp8": (past, CacheParts(storage=Float8())),
        "int8": (past, CacheParts(storage=Integers(8))),
        "int4": (past, CacheParts(storage=Integers(4))),
        "nvfp4": (past, CacheParts(storage=NVFP4())),
        "9 newest, 9 in int4": (9, CacheParts(spill=(OnCPU(9 * frame, Integers(4)),))),
        "2/3 of the tokens": (past, CacheParts(storage=Pruned(2 / 3))),
        "1/2 of the tokens": (past, CacheParts(storage=Pruned(1 / 2))),
        "2/3 of the tokens, by chunk": (past, CacheParts(storage=PrunedChunks())),
        "9 newest, 9 pruned by chunk": (9, CacheParts(spill=(OnCPU(9 * frame, PrunedChunks()),))),
        "means of 2 tokens": (past, CacheParts(storage=Pooled(2), **raw)),
        "means of 4 tokens": (past, CacheParts(storage=Pooled(4), **raw)),
        "means of 4 tokens that count once": (past, CacheParts(storage=Pooled(4, weighted=False), **raw)),
        "9 newest, 9 as means of 4": (9, CacheParts(spill=(OnCPU(9 * frame, Pooled(4)),), **raw)),
        "9 newest": (9, CacheParts()),
        "9: sink 3, 6 newest": (9, CacheParts(keep=Sink(3) + 1e-3 * CacheParts().keep)),
        "9 of low key norm": (9, CacheParts(keep=KeyNorm())),
        "9 of different keys": (9, CacheParts(keep=KeyDifference())),
        "9 by attention received": (9, CacheParts(keep=AttentionReceived())),
        "9 by attention expected": (9, CacheParts(**raw, keep=FutureAttention(statistics))),
        "9 per layer, by the mean query": (past, CacheParts(select=PooledQuery(9))),
        "9 newest, consecutive": (9, CacheParts(**raw, reindex=Consecutive())),
        "9: sink 3 before 6 newest": (
            9,
            CacheParts(**raw, keep=Sink(3) + 1e-3 * CacheParts().keep, reindex=SinkBeforeWindow(3)),
        ),
        "MemRoPE: sink 3, 2 means, 4 newest": (
            7,
            CacheParts(
                **raw,
                keep=Sink(3) + 1e-3 * CacheParts().keep,
                reindex=Consecutive(3),
                summary=EMASummary((0.01, 0.1)),
            ),
        ),
    }


@torch.no_grad()
def velocities(backbone: WanBackbone, video: Tensor, cache: KVCache, text: Tensor, reads: bool = True) -> list[Tensor]:
    """Velocities of the last chunk at each noise level, after the chunks before it were written to the cache."""
    model = backbone.transformer
    with cache.attach(model) as attached:
        for start in range(0, video.shape[2] - CHUNK, CHUNK):
            with attached.chunk(range(start, start + CHUNK), write=True):
                model(video[:, :, start : start + CHUNK], torch.zeros(1), text)
        at, outs = range(video.shape[2] - CHUNK, video.shape[2]), []
        noise = frame_noise([99], "noise", at, (video.shape[1], *SIZE))
        for sigma in SIGMAS:
            noisy = add_noise(video[:, :, at.start :], noise, torch.tensor([sigma]))
            with attached.chunk(at, read=None if reads else []):
                outs.append(model(noisy, torch.tensor([sigma * NUM_TRAIN_TIMESTEPS]), text, return_dict=False)[0])
    return outs


def errors(
    backbone: WanBackbone, seeds: Sequence[int], report: Callable[[str], None] = print
) -> dict[str, list[float]]:
    """The error of each cache for the video of each seed; a row is reported for each."""
    frame, text = frame_bytes(backbone.transformer, *SIZE), backbone.encode_text([PROMPT])
    whole, config = CHUNK * CHUNKS * frame, StreamConfig(chunk=CHUNK, steps=8, guidance_scale=1.0)
    streams = [Stream(backbone, [seed], whole, config, read=read_everything, size=SIZE) for seed in seeds]
    videos = [torch.cat([stream.generate([PROMPT]) for _ in range(CHUNKS)], 2) for stream in streams]
    full = [velocities(backbone, video, KVCache(whole), text) for video in videos]
    statistics, found = QueryStatistics(), dict[str, list[float]]()
    other = Stream(backbone, [1000], whole, config, read=read_everything, size=SIZE)
    with statistics.collect(backbone):
        for _ in range(CHUNKS):
            other.generate([PROMPT])
    with tempfile.TemporaryDirectory() as folder:
        for name, (frames, parts) in {
            "nothing": (CHUNK * CHUNKS, CacheParts()),
            **caches(frame, folder, statistics),
        }.items():
            rows = []
            for video, want in zip(videos, full, strict=True):
                cache = KVCache(frames * frame, parts=parts)
                got = velocities(backbone, video, cache, text, reads=name != "nothing")
                rows.append(mean(float((a - b).norm() / b.norm()) for a, b in zip(got, want, strict=True)))
            found[name] = rows
            half = float(stats.t.ppf(0.975, len(rows) - 1)) * stdev(rows) / len(rows) ** 0.5
            report(f"| {name} | {100 * mean(rows):.3g} ± {100 * half:.1g} % |")
    return found


@dataclass(frozen=True)
class Settings:
    """The command line."""

    seeds: int = 8
    """Number of videos, at least 2."""


def main(settings: Settings) -> None:
    """Print a row per cache."""
    torch.set_num_threads(1)
    print("| cache | error of the velocity |\n|---|---|")
    errors(WanBackbone.tiny(), range(settings.seeds))


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
