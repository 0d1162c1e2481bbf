"""`run_probe`: train one mechanism on one probe from its base, and measure it with its controls."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from jaxtyping import Bool
from torch import Tensor

from memkit.display import described, html_table
from memkit.metrics.bootstrap import bootstrap
from memkit.probes.batch import ProbeBatch
from memkit.probes.mechanisms.base import Mechanism
from memkit.probes.pretrain import base_steps, mechanism_steps, pretrained
from memkit.probes.probe import Probe
from memkit.probes.settings import ProbeSettings
from memkit.probes.training import predict, train

Answers = Bool[Tensor, "samples questions"]
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
    """Of the test."""
    ranges: dict[str, list[Any]]
    """Values of knobs that changed in training."""
    options: dict[str, Any]
    """Settings in which the mechanism differs from the defaults of its class."""
    settings: dict[str, Any]
    """Model and budget, see `ProbeSettings`."""
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
    conditions: dict[str, dict[str, float]]
    """The same with a control in place of the past: "without" it, that of "another" sample, "random" noise, or one part
    of what the mechanism shows of another sample, such as "low of another"."""
    curves: dict[str, list[list[Any]]]
    """Accuracy at values of one knob each; pairs of value and accuracy, see `Probe.ranges`."""
    bytes: int
    """Held of one sample's past."""
    seconds: float
    """Per chunk of one sample, on this machine; the median of a few."""
    parameters: int
    """Parameters of the mechanism that are trained beside those of the transformer."""
    device: str
    """Kind of device, such as "cpu" or "cuda"."""

    def __repr__(self) -> str:
        interval = f"accuracy {self.accuracy:.2f} [{self.low:.2f}, {self.high:.2f}], chance {self.chance:.2f}"
        return described(self, f"{self.mechanism!r} on {self.probe!r}", f"seed {self.seed}", interval)

    def _repr_html_(self) -> str:
        rows = [
            ("accuracy", f"{self.accuracy:.2f} [{self.low:.2f}, {self.high:.2f}]"),
            ("chance", f"{self.chance:.2f}"),
            ("without the past", f"{self.control_accuracy:.2f}"),
            ("with the past of another sample", f"{self.wrong_accuracy:.2f}"),
            ("bytes held per sample", f"{self.bytes:,}"),
        ]
        return html_table(f"{self.mechanism} on {self.probe}, seed {self.seed}", ["", ""], rows)

    @property
    def steps(self) -> int:
        """Training steps of the mechanism."""
        return self.settings["steps"]

    @property
    def identity(self) -> str:
        """All that the row follows from, as text: rows of the same identity are the same run."""
        return run_identity(self.probe, self.mechanism, self.seed, vars(self))


def run_probe(
    build: Callable[..., Mechanism],
    probe: Probe[Any],
    seed: int,
    settings: ProbeSettings = ProbeSettings(),  # noqa: B008  # frozen
    *,
    name: str | None = None,
    folder: Path = DEFAULT_FOLDER,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> ProbeResult:
    """Train a mechanism on a probe from its pretrained base, and measure it.

    Args:
        build: the class of the mechanism, or what else creates one from a transformer and a probe.
        seed: of the mechanism's initial weights, of the training samples and of the test samples.
        name: of the mechanism in the result; by default that of the class.
        folder: where the base is, or is put after its training.
        device: of the model; samples are drawn on the CPU, so they are the same everywhere.

    Raises:
        FileError: the folder cannot be written, or the base is damaged.
    """
    transformer, encoder = pretrained(probe, settings, folder, progress, device)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        mechanism = build(transformer, probe)
        title = type(mechanism).__name__ if name is None else name
        mechanism.take_cameras(encoder)
        mechanism.to(device)
        batches, shown = probe.batches("train", seed, settings.batch), f"{probe.name}: {title}" if progress else ""
        train(transformer, mechanism, batches, settings, mechanism_steps(probe, settings), seed, shown)
        mechanism.eval()
        test = _Test(transformer, mechanism, probe, seed, settings.samples)
        right, conditions = test.correct(test.batch), test.conditions()
        curves = {
            knob: [[value, test.at(**{knob: value})] for value in values.test] for knob, values in probe.ranges.items()
        }
        seconds = test.seconds()
    interval = bootstrap(lambda x: float(x.mean()), right.float().mean(1).numpy(), seed=seed)
    return ProbeResult(
        probe=probe.name,
        mechanism=title,
        seed=seed,
        **run_settings(build, probe, settings),
        accuracy=interval.value,
        low=interval.low,
        high=interval.high,
        chance=probe.chance,
        control_accuracy=conditions["without"].float().mean().item(),
        wrong_accuracy=conditions["another"].float().mean().item(),
        kinds=test.kinds(right),
        conditions={name: test.kinds(each) for name, each in conditions.items()},
        curves=curves,
        bytes=mechanism.held_bytes(test.batch),
        seconds=seconds,
        parameters=sum(p.numel() for p in mechanism.parameters()),
        device=torch.device(device).type,
    )


def run_settings(build: Callable[..., Mechanism], probe: Probe[Any], settings: ProbeSettings) -> dict[str, Any]:
    """The fields of a `ProbeResult` that say what was run, as they are in a file."""
    fields = {
        "knobs": asdict(probe.knobs),
        "ranges": {name: each.train for name, each in probe.ranges.items()},
        "options": dict(getattr(build, "keywords", {})),
        "settings": {
            **asdict(settings),
            "pretrain_steps": base_steps(probe, settings),
            "steps": mechanism_steps(probe, settings),
        },
    }
    return json.loads(json.dumps(fields, default=repr))  # options may be objects, such as the parts of a cache


def run_identity(probe: str, mechanism: str, seed: int, run: Mapping[str, Any]) -> str:
    """All that a row follows from, as text; ``run`` is what `run_settings` returns, or a row's own fields."""
    fields = {name: run[name] for name in ("knobs", "ranges", "options", "settings")}
    return json.dumps([probe, mechanism, seed, fields], sort_keys=True)


class _Test:
    """The test samples of a run, and predictions for them."""

    def __init__(
        self, transformer: WanTransformer3DModel, mechanism: Mechanism, probe: Probe[Any], seed: int, samples: int
    ) -> None:
        self.transformer, self.mechanism, self.probe = transformer, mechanism, probe
        self.seed, self.samples = seed, samples
        self.batch = next(probe.batches("test", seed, samples))
        self.noise = torch.randn(self.batch.target.shape, generator=torch.Generator().manual_seed(seed))

    def correct(self, batch: ProbeBatch, shown: AbstractContextManager[Any] | None = None) -> Answers:
        """Whether the questions are answered rightly where the model is shown another past, or something else."""
        return batch.correct(predict(self.transformer, self.mechanism, batch, self.noise, shown))

    def conditions(self) -> dict[str, Answers]:
        """The controls."""
        batch = self.batch
        other = batch.with_memory_of(torch.arange(len(batch)).roll(1))
        pasts = {
            "without": batch.without_memory(),
            "another": other,
            "random": batch.with_random_memory(torch.Generator().manual_seed(self.seed)),
        }
        device, found = self.transformer.device, {name: self.correct(past) for name, past in pasts.items()}
        for part in self.mechanism.parts:
            both = [each.concealed().to(device) for each in (batch, other)]
            shown = self.mechanism.shown_with(self.transformer, both[0], both[1], part)
            found[f"{part} of another"] = self.correct(batch, shown)
        return found

    def at(self, **knobs: Any) -> float:
        """Accuracy with other values of some knobs."""
        batch = next(self.probe.at(**knobs).batches("test", self.seed, self.samples))
        return self.correct(batch).float().mean().item()

    def kinds(self, right: Answers) -> dict[str, float]:
        """Accuracy by the kind of question."""
        kinds = [question.kind for question in self.batch.questions]
        return {
            kind: right[:, [i for i, each in enumerate(kinds) if each == kind]].float().mean().item()
            for kind in dict.fromkeys(kinds)
        }

    def seconds(self) -> float:
        """Median of the wall-clock time of single samples, after one that does not count."""
        batches, times = self.probe.batches("test", self.seed, 1), []
        for _ in range(TIMED + 1):
            batch = next(batches)
            start = time.perf_counter()
            predict(self.transformer, self.mechanism, batch, self.noise[:1])
            times.append(time.perf_counter() - start)
        return statistics.median(times[1:])
