"""Cost of memory tokens in a self-attention: as keys and values only, against running them as queries too.

    python -m benchmarks.memory_overhead --out out/memory_overhead.json

One Wan2.1-1.3B self-attention (width 1536, 12 heads) with its norm and modulation, S video and M memory tokens, fp32.
The three variants take turns, so that other load affects all of them; the figure is the ratio of the added times, with
a bootstrap interval over rounds. "Queries too" is the arithmetic of the DiT-Mem release:
memory runs in the sequence and its output rows are dropped.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from diffusers import WanTransformer3DModel
from torch import Tensor

from benchmarks.common import report
from memkit.injectors import SelfAttentionConcat
from memkit.memory import Memory
from memkit.metrics import bootstrap


@dataclass(frozen=True)
class Settings:
    """Sizes and repeats."""

    video_tokens: int = 2304
    memory_tokens: int = 1024
    rounds: int = 15
    threads: int = 2
    seed: int = 0
    out: Path = Path("out/memory_overhead.json")


def main(settings: Settings) -> None:
    """Time the variants and print the ratio."""
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    model = WanTransformer3DModel(num_attention_heads=12, attention_head_dim=128, num_layers=1, ffn_dim=16, text_dim=8)
    block = model.eval().requires_grad_(False).blocks[0]
    x = torch.randn(1, settings.video_tokens, 1536)
    memory = torch.randn(1, settings.memory_tokens, 1536)
    text, temb = torch.randn(1, 1, 1536), torch.randn(1, 6, 1536)
    rotary = tuple(torch.randn(1, settings.video_tokens, 1, 128) for _ in range(2))
    identity = (torch.ones(1, settings.memory_tokens, 1, 128), torch.zeros(1, settings.memory_tokens, 1, 128))
    longer = tuple(torch.cat([a, b], dim=1) for a, b in zip(rotary, identity, strict=True))

    def base() -> Tensor:
        return block(x, text, temb, rotary)

    def queries_too() -> Tensor:
        return block(torch.cat([x, memory], 1), text, temb, longer)[:, : settings.video_tokens]

    def keys_and_values() -> Tensor:
        with SelfAttentionConcat(Memory(memory)).attach(model):
            return block(x, text, temb, rotary)

    difference = (queries_too() - keys_and_values()).abs().max().item()
    variants = {"base": base, "keys and values only": keys_and_values, "queries too": queries_too}
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(settings.rounds):
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    columns = [np.array(values) for values in times.values()]
    ratio = bootstrap(_added, *columns)
    result = {
        "milliseconds": {name: round(1e3 * float(np.median(values)), 1) for name, values in times.items()},
        "added time, keys and values only / queries too": round(ratio.value, 3),
        "95 % interval": [round(ratio.low, 3), round(ratio.high, 3)],
        "largest difference of the outputs": difference,
    }
    report(result, settings, settings.out)


def _added(base: np.ndarray, keys_and_values: np.ndarray, queries_too: np.ndarray) -> float:
    """Ratio of the two variants' median times in excess of the base."""
    middle = np.median(base)
    return float((np.median(keys_and_values) - middle) / (np.median(queries_too) - middle))


if __name__ == "__main__":
    main(tyro.cli(Settings))
