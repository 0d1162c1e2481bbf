"""Cost of a chunk with learned queries: context computed once, against at each step, and against frames in sequence.

    python -m benchmarks.query_layers --out out/query_layers.json

A Wan with random weights generates a chunk of 20 latent frames from nine chunks of context, as in MemLearner (arXiv
2606.31734), with a sixth of its blocks as query layers; a step is one forward, as without text guidance. The variants
take turns, so that other load affects all of them; a figure is a ratio of medians, with a bootstrap interval over
rounds. "CaM" has 20 context frames in the sequence of every layer, "all in sequence" all 180. The paper reports 0.54
chunks of frames per second against CaM's 0.97, without caching between steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from diffusers import WanTransformer3DModel

from benchmarks.common import report
from memkit.injectors import FrameContext, FrameContextConfig, QueryLayers, QueryLayersConfig
from memkit.metrics import bootstrap


@dataclass(frozen=True)
class Settings:
    """Sizes and repeats."""

    frames: int = 20
    """Latent frames per chunk."""
    context: int = 180
    """Latent frames of context."""
    cam: int = 20
    """Context frames of CaM."""
    size: int = 8
    """Height and width of a latent frame; a token is 2×2."""
    blocks: int = 12
    layers: int = 2
    heads: int = 4
    steps: int = 10
    """Denoising steps per chunk."""
    rounds: int = 7
    threads: int = 2
    seed: int = 0
    out: Path = Path("out/query_layers.json")


def main(settings: Settings) -> None:
    """Time the variants and print the ratios."""
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    heads, blocks = settings.heads, settings.blocks
    sizes: dict[str, Any] = {"num_attention_heads": heads, "attention_head_dim": 64, "ffn_dim": 256 * heads}
    sizes |= {"text_dim": 64}
    model = WanTransformer3DModel(num_layers=blocks, in_channels=16, out_channels=16, **sizes).eval()
    x = torch.randn(1, 16, settings.frames, settings.size, settings.size)
    context = torch.randn(1, 16, settings.context, settings.size, settings.size)
    text, timesteps = torch.randn(1, 16, 64), torch.linspace(1000, 100, settings.steps)

    @contextmanager
    def learned(times: Literal["clean", "shared"]) -> Iterator[None]:
        query = QueryLayers(QueryLayersConfig(64 * heads, blocks, settings.layers, context_time=times))
        with query.attach(model) as attached, attached.chunk(context):
            yield

    @contextmanager
    def in_sequence(frames: int) -> Iterator[None]:
        beside = FrameContext(FrameContextConfig.of(model))
        with beside.attach(model) as attached, attached.chunk(context[:, :, -frames:]):
            yield

    variants: dict[str, Callable[[], AbstractContextManager]] = {
        "no context": nullcontext,
        "learned, context once": lambda: learned("clean"),
        "learned, context at each step": lambda: learned("shared"),
        "CaM": lambda: in_sequence(settings.cam),
        "all in sequence": lambda: in_sequence(settings.context),
    }
    times: dict[str, list[float]] = {name: [] for name in variants}
    with torch.no_grad():
        for _ in range(settings.rounds):
            for name, shown in variants.items():
                start = time.perf_counter()
                with shown():
                    for t in timesteps:
                        model(x, t[None], text, return_dict=False)
                times[name].append(time.perf_counter() - start)
    own = np.array(times["learned, context once"])
    ratios = {}
    for name, values in times.items():
        if name != "learned, context once":
            found = bootstrap(lambda a, b: float(np.median(a) / np.median(b)), own, np.array(values))
            ratios[f"learned, context once / {name}"] = [round(value, 3) for value in found]
    result = {
        "seconds per chunk": {name: round(float(np.median(values)), 3) for name, values in times.items()},
        "ratio, and its 95 % interval": ratios,
    }
    report(result, settings, settings.out)


if __name__ == "__main__":
    main(tyro.cli(Settings))
