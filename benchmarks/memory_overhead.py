"""What memory costs in a self-attention: keys and values only, against the same tokens run as queries too.

    python -m benchmarks.memory_overhead --out out/memory_overhead.json

One Wan2.1-1.3B self-attention (width 1536, 12 heads) with its norm and modulation, S video and M memory tokens, fp32.
The three variants take turns, so that whatever else the machine does falls on all of them; the figure is the ratio of
the added times, and its interval is a bootstrap over rounds. "Queries too" is the arithmetic of the DiT-Mem release:
memory runs in the sequence and its output rows are dropped.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from diffusers import WanTransformer3DModel
from torch import Tensor

from memkit.injectors import SelfAttentionConcat
from memkit.memory import Memory


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
    seconds = {name: torch.tensor(values) for name, values in times.items()}
    rounds = torch.randint(settings.rounds, (2000, settings.rounds), generator=torch.Generator().manual_seed(0))
    rounds = torch.cat([torch.arange(settings.rounds)[None], rounds])
    medians = {name: values[rounds].median(dim=1).values for name, values in seconds.items()}
    added = {name: medians[name] - medians["base"] for name in list(variants)[1:]}
    ratios = added["keys and values only"] / added["queries too"]
    low, high = ratios[1:].quantile(torch.tensor([0.025, 0.975])).tolist()
    result = {
        "milliseconds": {name: round(1e3 * m[0].item(), 1) for name, m in medians.items()},
        "added time, keys and values only / queries too": round(ratios[0].item(), 3),
        "95 % interval": [round(low, 3), round(high, 3)],
        "largest difference of the outputs": difference,
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in vars(settings).items()},
        "torch": torch.__version__,
    }
    print(json.dumps(result, indent=2))
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    settings.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Settings))
