"""Training on a probe, and predicting its chunks: flow matching as anywhere, with the answer read from pure noise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from diffusers import WanTransformer3DModel
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from memkit.flow import NUM_TRAIN_TIMESTEPS, add_noise, shift_sigma
from memkit.generation.conditioning import conditioning_frames
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

    The loss is that of flow matching on the frames of the chunk that are not given.
    """
    transformer.requires_grad_(not mechanism.frozen)
    parameters = [p for p in (*transformer.parameters(), *mechanism.parameters()) if p.requires_grad]
    if not parameters:
        return []
    optimizer = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=0.0)
    rising = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, settings.warmup)))
    generator, losses = torch.Generator().manual_seed(seed), []
    for _ in tqdm(range(steps), title, disable=not title, mininterval=5):
        batch = next(batches)
        noise = torch.randn(batch.target.shape, generator=generator)
        sigma = shift_sigma(torch.rand(len(batch), generator=generator), settings.shift)
        with shown(transformer, mechanism, batch):
            velocity = call(transformer, batch, add_noise(batch.target, noise, sigma), sigma)
            loss = (velocity - (noise - batch.target))[:, :, batch.given :].pow(2).mean()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        rising.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def predict(
    transformer: WanTransformer3DModel, mechanism: Mechanism, batch: ProbeBatch, noise: Tensor
) -> Float[Tensor, "batch channels frames height width"]:
    """The chunk that is expected from pure noise, in one step: x₀ = ε − v at σ = 1."""
    sigma = torch.ones(len(batch))
    with shown(transformer, mechanism, batch):
        return noise - call(transformer, batch, noise, sigma)


@contextmanager
def shown(transformer: WanTransformer3DModel, mechanism: Mechanism, batch: ProbeBatch) -> Iterator[None]:
    """Inside, the transformer sees what the mechanism shows, and the given frames of the chunk."""
    frames = batch.target[:, :, : batch.given]
    with (
        mechanism.shown(transformer, batch.concealed()),
        conditioning_frames(frames, transformer) if batch.given else nullcontext(),
    ):
        yield


def call(
    transformer: WanTransformer3DModel, batch: ProbeBatch, noisy: Tensor, sigma: Tensor
) -> Float[Tensor, "batch channels frames height width"]:
    """The velocity that the transformer predicts, at one noise level per sample."""
    return transformer(noisy, sigma * NUM_TRAIN_TIMESTEPS, batch.text, return_dict=False)[0]
