"""How time grows with what is remembered: the slope of log time over log size."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.performance.models import wan
from benchmarks.performance.rows import Bench, Row, Variant
from memkit.banks import MemoryBank
from memkit.injectors import KVCache, QueryLayers, QueryLayersConfig, SelfAttentionConcat
from memkit.injectors.kv_cache import frame_bytes
from memkit.memory import Memory
from memkit.metrics import bootstrap

SIDE, FRAMES = 16, 3


def rows(bench: Bench) -> list[Row]:
    """One row per curve. A slope below 1 where time should be linear is that of a constant part beside it."""
    model = wan(bench, 4, 64, 4, 512)
    runs = _Runs(bench, model)
    return [
        runs.curve("memory tokens in a forward pass", (512, 1024, 2048, 4096), runs.with_tokens),
        runs.curve("context frames of query layers, first step", (24, 48, 96, 192), runs.with_context),
        runs.curve("cached frames read in a step", (6, 12, 24, 48), runs.with_cached),
        runs.curve("chunks of a rollout in a window of 6 frames", (4, 8, 16, 32), runs.with_chunks),
        runs.curve("clips of a bank, reading one", (16, 64, 256), runs.with_bank),
    ]


class _Runs:
    def __init__(self, bench: Bench, model: Any) -> None:
        self.bench, self.model = bench, model
        self.text = self._random(1, 16, 64)
        self.t = torch.tensor([500], device=bench.device)

    def _random(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape).to(self.bench.device, self.bench.dtype)

    def _step(self, x: torch.Tensor) -> None:
        with torch.no_grad():
            self.model(x, self.t, self.text, return_dict=False)

    def curve(self, what: str, sizes: Sequence[int], make: Callable[[int], Callable[[], object]]) -> Row:
        """The slope over these sizes, with the bootstrap's interval over rounds."""
        times = self.bench.turns({str(size): Variant(make(size)) for size in sizes})
        columns = [times.seconds[str(size)] for size in sizes]

        def slope(*values: np.ndarray) -> float:
            middle = [float(np.median(x)) for x in values]
            return float(np.polyfit(np.log(sizes), np.log(middle), 1)[0])

        claim = f"Slope over {what} ({', '.join(map(str, sizes))})"
        return Row(claim, *bootstrap(slope, *columns), details=times.details([str(size) for size in sizes]))

    def with_tokens(self, tokens: int) -> Callable[[], None]:
        memory, x = Memory(self._random(1, tokens, 256)), self._random(1, 16, FRAMES, SIDE, SIDE)

        def run() -> None:
            with SelfAttentionConcat(memory).attach(self.model):
                self._step(x)

        return run

    def with_context(self, frames: int) -> Callable[[], None]:
        query = QueryLayers(QueryLayersConfig(256, 4, 2)).to(self.bench.device, self.bench.dtype)
        context, x = self._random(1, 16, frames, SIDE, SIDE), self._random(1, 16, FRAMES, SIDE, SIDE)

        def run() -> None:
            with query.attach(self.model) as attached, attached.chunk(context):
                self._step(x)

        return run

    def with_cached(self, frames: int) -> Callable[[], None]:
        cache = KVCache(frames * frame_bytes(self.model, SIDE, SIDE, dtype=self.bench.dtype))
        with cache.attach(self.model) as attached, attached.chunk(range(frames), write=True):
            self._step(self._random(1, 16, frames, SIDE, SIDE))
        x = self._random(1, 16, FRAMES, SIDE, SIDE)

        def run() -> None:
            with cache.attach(self.model) as attached, attached.chunk(range(frames, frames + FRAMES)):
                self._step(x)

        return run

    def with_chunks(self, chunks: int) -> Callable[[], None]:
        x = self._random(1, 16, FRAMES, SIDE, SIDE)
        budget = 2 * FRAMES * frame_bytes(self.model, SIDE, SIDE, dtype=self.bench.dtype)

        def run() -> None:
            with KVCache(budget).attach(self.model) as attached:
                for i in range(chunks):
                    for write in (False, True):
                        with attached.chunk(range(i * FRAMES, (i + 1) * FRAMES), write=write):
                            self._step(x)

        return run

    def with_bank(self, clips: int) -> Callable[[], None]:
        folder = tempfile.TemporaryDirectory()
        bank = bank_of(Path(folder.name) / "bank", clips)
        ids = [clip.id for clip in bank]

        def run(_keep: object = folder) -> None:
            for _ in range(20):
                bank.latents([random.choice(ids)])

        return run


def bank_of(folder: Path, clips: int) -> MemoryBank:
    """A bank of random latents."""
    with MemoryBank.create(folder) as bank:
        for number in range(clips):
            bank.add(f"clip {number}", torch.randn(16, 5, 16, 16), f"caption {number}")
    return MemoryBank.open(folder)
