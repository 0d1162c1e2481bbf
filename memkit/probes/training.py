"""Training on a probe, and predicting its chunks: flow matching as anywhere, with the answer read from pure noise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from memkit.flow import shift_sigma
from memkit.probes.batch import ProbeBatch
from memkit.probes.mechanisms.base import Mechanism
from memkit.probes.settings import ProbeSettings


def train(
    transformer: WanTransformer3DModel,
    mechanism: Mechanism,
    batches: Iterator[ProbeBatch],
    settings: ProbeSettings,
    steps: int,
    seed: int,
    title: str = "",
) -> list[float]:
    """Train the mechanism, and the transformer unless it is frozen, for some steps; the loss of each.

    Samples and noise are drawn on the CPU, the same on all devices, and moved to that of the transformer.
    """
    transformer.requires_grad_(not mechanism.frozen)
    parameters = [p for p in (*transformer.parameters(), *mechanism.parameters()) if p.requires_grad]
    if not parameters:
        return []
    optimizer = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=0.0)
    rising = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, settings.warmup)))
    generator, losses, device = torch.Generator().manual_seed(seed), [], transformer.device
    for _ in tqdm(range(steps), title, disable=not title, mininterval=5):
        batch = next(batches).to(device)
        noise = torch.randn(batch.target.shape, generator=generator)
        sigma = shift_sigma(torch.rand(len(batch), generator=generator), settings.shift)
        loss = mechanism.loss(transformer, batch, noise.to(device), sigma.to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        rising.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def predict(
    transformer: WanTransformer3DModel,
    mechanism: Mechanism,
    batch: ProbeBatch,
    noise: Float[Tensor, "batch channels frames height width"],
    shown: AbstractContextManager[Any] | None = None,
) -> Float[Tensor, "batch channels frames height width"]:
    """The chunk that is expected from pure noise, in one step, x₀ = ε − v at σ = 1, on the CPU.

    ``shown``: what the mechanism shows; by default the past of the batch.
    """
    moved, noise = batch.to(transformer.device), noise.to(transformer.device)
    shown = mechanism.shown(transformer, moved.concealed()) if shown is None else shown
    sigma = torch.ones(len(batch), device=noise.device)
    return (noise - mechanism.velocity(transformer, moved, noise, sigma, shown)).cpu()
