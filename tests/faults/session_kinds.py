"""Sessions that are saved in the middle of generation: cached keys and values, histories, streams."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

from memkit import History, KVCache
from memkit.backbones import WanBackbone
from memkit.streaming import Stream
from tests.faults.kinds import FileKind
from tests.helpers.random_wan import random_pipeline
from tests.helpers.small_banks import cameras
from tests.helpers.streams import FAST, Short, seeded, stream

SHORT = replace(FAST, text_length=8)


def make_cache(folder: Path, seed: int) -> None:
    cache = KVCache(10**5, ("cond", "uncond"))
    for number, name in enumerate(cache.branches):
        pairs = [(seeded(1, 8, 2, 4, seed=10 * seed + number), seeded(1, 8, 2, 4, seed=seed)) for _ in range(2)]
        cache.branch(name).update([0, 2], pairs)
    cache.branch("cond").pin([2])
    cache.save(folder / "cache.safetensors")


def use_cache(folder: Path) -> object:
    cache = KVCache.load(folder / "cache.safetensors")
    branches = {name: cache.branch(name) for name in cache.branches}
    content = {name: (b.positions, b.pinned, [b.get(i) for i in range(b.layers)]) for name, b in branches.items()}
    return cache.budget_bytes, content


def make_history(folder: Path, seed: int) -> None:
    history = History(10**5, pinned=1)
    posed = cameras(3, seed)
    batched = type(posed)(posed.c2w[None], posed.intrinsics[None])
    history.add(seeded(1, 4, 3, 2, 2, seed=seed), batched, [0, 1, 2])
    history.save(folder / "history.safetensors")


def use_history(folder: Path) -> object:
    history = History.load(folder / "history.safetensors")
    return history.budget, history.pinned, history.dropped, history.times, history.latents, history.cameras


@functools.cache
def backbone() -> WanBackbone:
    return Short.from_pipeline(random_pipeline())


def make_stream(folder: Path, seed: int) -> None:
    made = stream(backbone(), SHORT, seeds=(seed,))
    made.generate(["a red ball"])
    made.save(folder)


def use_stream(folder: Path) -> object:
    loaded = Stream.load(folder, backbone())
    branches = [loaded.cache.branch(name) for name in loaded.cache.branches]
    return loaded.seeds, loaded.position, loaded.config, [(b.positions, b.get(0)) for b in branches]


def go_on(folder: Path) -> object:
    return Stream.load(folder, backbone()).generate(["a red ball"])


KINDS = (
    FileKind("cache session", make_cache, use_cache),
    FileKind("history", make_history, use_history),
    FileKind("stream", make_stream, use_stream),
    FileKind("stream, continued", make_stream, go_on),
)
