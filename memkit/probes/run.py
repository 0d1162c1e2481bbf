"""`run_probe`: train one mechanism on one probe from its base, and measure it with its controls."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from memkit.metrics.bootstrap import bootstrap
from memkit.probes.batch import ProbeBatch
from memkit.probes.mechanisms.base import Mechanism
from memkit.probes.pretrain import pretrained
from memkit.probes.probe import Probe
from memkit.probes.settings import ProbeSettings
from memkit.probes.training import predict, train

DEFAULT_FOLDER = Path("out/probes")
"""Where pretrained bases are kept."""
TIMED = 5
"""Chunks of one sample that are timed."""


@dataclass(frozen=True)
class ProbeResult:
    """A row of the table: one mechanism on one probe, with one seed."""

    probe: str
    mechanism: str
    seed: int
    knobs: dict[str, Any]
    accuracy: float
    """Share of the questions that are answered rightly, over the test samples."""
    low: float
    """Lower bound of its 95 % interval (bootstrap over the samples; other seeds are other rows)."""
    high: float
    chance: float
    """Accuracy of the best guess without the past."""
    control_accuracy: float
    """Accuracy of the same trained model without the past; near chance."""
    wrong_accuracy: float
    """Accuracy with the past of another sample; near chance."""
    kinds: dict[str, float]
    """Accuracy by the kind of question."""
    bytes: int
    """Held of one sample's past."""
    seconds: float
    """Per chunk of one sample, on this machine; the median of a few."""
    parameters: int
    """Parameters of the mechanism that are trained beside those of the transformer."""
    steps: int


def run_probe(
    build: Callable[..., Mechanism],
    probe: Probe[Any],
    seed: int,
    settings: ProbeSettings = ProbeSettings(),  # noqa: B008  # frozen
    *,
    name: str | None = None,
    folder: Path = DEFAULT_FOLDER,
    progress: bool = False,
) -> ProbeResult:
    """Train a mechanism on a probe from its pretrained base, for ``settings.steps`` steps, and measure it.

    Args:
        build: the class of the mechanism, or what else creates one from a transformer and a probe.
        seed: of the mechanism's initial weights, of the training samples and of the test samples.
        name: of the mechanism in the result; by default that of the class.
        folder: where the base is, or is put after its training.

    Raises:
        FileError: the folder cannot be written, or the base is damaged.
    """
    transformer, encoder = pretrained(probe, settings, folder, progress)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        mechanism = build(transformer, probe)
        title = type(mechanism).__name__ if name is None else name
        mechanism.take_cameras(encoder)
        batches = probe.batches("train", seed, settings.batch)
        train(
            transformer,
            mechanism,
            batches,
            settings,
            settings.steps,
            seed,
            f"{probe.name}: {title}" if progress else "",
        )
        mechanism.eval()
        batch = next(probe.batches("test", seed, settings.samples))
        noise = torch.randn(batch.target.shape, generator=torch.Generator().manual_seed(seed))

        def correct(shown: ProbeBatch) -> Bool[Tensor, "samples questions"]:
            return probe.score(predict(transformer, mechanism, shown, noise), batch)

        right = correct(batch)
        without = correct(batch.without_memory())
        wrong = correct(batch.with_memory_of(torch.arange(len(batch)).roll(1)))
        seconds = _seconds(lambda one: predict(transformer, mechanism, one, noise[:1]), probe, seed)
    interval = bootstrap(lambda x: float(x.mean()), right.float().mean(1).numpy(), seed=seed)
    kinds = np.array([question.kind for question in batch.questions])
    return ProbeResult(
        probe=probe.name,
        mechanism=title,
        seed=seed,
        knobs=asdict(probe.knobs),
        accuracy=interval.value,
        low=interval.low,
        high=interval.high,
        chance=probe.chance,
        control_accuracy=without.float().mean().item(),
        wrong_accuracy=wrong.float().mean().item(),
        kinds={str(kind): float(right.float().numpy()[:, kinds == kind].mean()) for kind in np.unique(kinds)},
        bytes=mechanism.held_bytes(batch),
        seconds=seconds,
        parameters=sum(p.numel() for p in mechanism.parameters()),
        steps=settings.steps,
    )


def _seconds(call: Callable[[ProbeBatch], Tensor], probe: Probe[Any], seed: int) -> float:
    """Median of the wall-clock time of single samples, after one that does not count."""
    batches, times = probe.batches("test", seed, 1), []
    for _ in range(TIMED + 1):
        batch = next(batches)
        start = time.perf_counter()
        call(batch)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])
