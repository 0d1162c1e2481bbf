"""How soon training makes use of memory: a toy task whose answer lies only in the context.

    python -m benchmarks.fetch --out out/fetch.json

A Wan of four blocks learns from scratch to generate frames that are copies of context frames. Their content is noise,
and only the poses say which frames are meant. The best error of a velocity is thus π/2 without the context and 0 with
it, and memory counts as used once the mean over a hundred steps is below half of π/2. Four ways to the context, from
the same weights and samples: in the sequence of every layer ("window"), through learned queries that begin as the chunk
itself, through queries of noise at timestep 0, and through these with a loss of their own (`LearnedContext.fetched`).
Prints the first such step of each run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import tyro
from diffusers import WanTransformer3DModel
from torch import Tensor
from tqdm import tqdm

from benchmarks.common import looking, report
from memkit.cameras import Cameras
from memkit.flow import NUM_TRAIN_TIMESTEPS, add_noise
from memkit.injectors import FrameContext, FrameContextConfig, QueryLayers, QueryLayersConfig
from memkit.rollout import ContextMethod, History, LearnedContext, NewestContext
from memkit.rollout.methods import query_loss


@dataclass(frozen=True)
class Settings:
    """Sizes, and the number of steps."""

    context: int = 4
    """Context frames, in random order; their cameras are at equal angles."""
    frames: int = 2
    """Frames of the chunk: copies of as many different context frames."""
    blocks: int = 4
    layers: int = 2
    """Query layers."""
    steps: int = 1000
    """Maximum number of training steps."""
    batch: int = 32
    larger: int = 128
    """Batch size of a second run with queries of noise."""
    lr: float = 2e-3
    warmup: int = 100
    seeds: tuple[int, ...] = (1, 2, 3)
    threads: int = 1
    out: Path = Path("out/fetch.json")


class Batch(NamedTuple):
    """Chunks, the frames that they copy, and noise."""

    history: History
    cameras: Cameras
    latents: Tensor
    noise: Tensor
    query_noise: Tensor
    sigma: Tensor


def batches(settings: Settings, size: int, seed: int) -> Iterator[Batch]:
    """An endless stream of batches."""
    generator, count = torch.Generator().manual_seed(seed), settings.context
    eye = torch.zeros(3, dtype=torch.float64)
    while True:
        turned = torch.arange(count) / count + torch.rand(size, 1, generator=generator)
        yaw = 2 * math.pi * turned.gather(1, _shuffled(size, count, generator))
        past = torch.randn(size, 4, count, 4, 4, generator=generator)
        meant = _shuffled(size, count, generator)[:, : settings.frames]
        latents = past.gather(2, meant[:, None, :, None, None].expand(-1, 4, -1, 4, 4))
        history = History()
        history.add(past, looking(eye, yaw), list(range(count)))
        noise, queries = torch.randn(2, *latents.shape, generator=generator)
        sigma = torch.rand(size, generator=generator)
        yield Batch(history, looking(eye, yaw.gather(1, meant)), latents, noise, queries, sigma)


def build(settings: Settings, way: str, seed: int) -> tuple[WanTransformer3DModel, ContextMethod]:
    """A model with random weights, and its way to the context."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"num_attention_heads": 4, "attention_head_dim": 24, "ffn_dim": 192, "text_dim": 16}
    model = WanTransformer3DModel(num_layers=settings.blocks, in_channels=4, out_channels=4, freq_dim=32, **sizes)
    if way == "window":
        return model, NewestContext(FrameContext(FrameContextConfig.of(model)), settings.context)
    noise: dict[str, Any] = {} if way == "learned" else {"query": "noise", "query_time": "clean"}
    query = QueryLayers(QueryLayersConfig(dim=96, blocks=settings.blocks, layers=settings.layers, **noise))
    return model, LearnedContext(query, settings.context)


def first_use(settings: Settings, way: str, size: int, seed: int) -> int | None:
    """The first step, after a hundred, at which the context is used; None if there is none."""
    model, method = build(settings, way, seed)
    parameters = [*model.parameters(), *method.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=0.0)
    warm = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / settings.warmup))
    text, errors, stream = torch.zeros(size, 1, 16), [], batches(settings, size, seed)
    for step in tqdm(range(settings.steps), f"{way}, {size}, {seed}"):
        batch = next(stream)
        selection, noisy = (
            method.choose(batch.history, batch.cameras),
            add_noise(batch.latents, batch.noise, batch.sigma),
        )
        with method.shown(model, selection=selection, cameras=batch.cameras, noise=batch.query_noise, text=text):
            given = model(noisy, batch.sigma * NUM_TRAIN_TIMESTEPS, text, return_dict=False)[0]
            error = (given - (batch.noise - batch.latents)).pow(2).mean()
            taught = query_loss(method, batch.latents) if way == "taught" else 0.0
            (error + taught).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        warm.step()
        errors.append(error.item())
        if step >= 100 and sum(errors[-100:]) / 100 < math.pi / 4:
            return step + 1
    return None


def main(settings: Settings) -> None:
    """Run all ways and print when each began to use its context."""
    torch.set_num_threads(settings.threads)
    runs = {way: (way, settings.batch) for way in ("window", "learned", "noise", "taught")}
    runs[f"noise, batch {settings.larger}"] = "noise", settings.larger
    found = {name: [first_use(settings, *run, seed) for seed in settings.seeds] for name, run in runs.items()}
    report({"first step of use, by seed; null: not in all steps": found}, settings, settings.out)


def _shuffled(rows: int, count: int, generator: torch.Generator) -> Tensor:
    return torch.stack([torch.randperm(count, generator=generator) for _ in range(rows)])


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
