"""The course of a run that processes share: from where it was stopped, step by step, to its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from accelerate import Accelerator
from torch import Tensor, nn

from recipes.common.settings import RunSettings
from recipes.common.training import Phase, RunLog, by_noise_level, estimate_cost, timed


class Made(NamedTuple):
    """What a step has made of this process' share of the batch, besides gradients."""

    loss: Tensor
    """Of any shape."""
    sigma: Tensor
    """Noise level of each loss."""
    more: dict[str, Any]
    """What else ``log.jsonl`` tells of the step."""


@dataclass(frozen=True)
class Course:
    """A run of ``steps`` steps, each a function of its number alone. Only the main process logs."""

    name: str
    settings: RunSettings
    launched: Accelerator
    steps: int
    gradients: Callable[[int], Made]
    """Leave the mean gradients of all processes."""
    update: Callable[[int], Tensor]
    """Take them; their norm."""
    save: Callable[[int], None]
    """Write what so many steps have made. All processes call it."""

    def run(self, start: int) -> None:
        """From step ``start`` to the end."""
        settings, launched = self.settings, self.launched
        tracked = None if settings.tracker == "none" else lambda row, step: launched.log(row, step=step)
        log = RunLog(settings.out, self.name, start, self.steps, tracked) if launched.is_main_process else None
        for step in range(start, self.steps):
            made = self.gradients(step)
            norm = self.update(step)
            row = self._row(step, made, norm) if step % settings.log_every == 0 else None
            if log is not None:
                log.step(row)
            if (step + 1) % settings.save_every == 0 or step + 1 == self.steps:
                self.save(step + 1)
        if log is not None:
            log.close()

    def _row(self, step: int, made: Made, norm: Tensor) -> dict[str, Any]:
        loss, sigma = self.launched.gather((made.loss.flatten(), made.sigma.to(made.loss).flatten()))
        return {
            "step": step,
            "loss": loss.mean().item(),
            **by_noise_level(loss, sigma),
            "norm": norm.item(),
            **made.more,
        }

    def tell(self, start: int, step: Callable[[], object], modules: nn.Module, copies: int = 8) -> None:
        """Say what the steps from ``start`` on will cost, from ``step``, which makes one like them.

        Its gradients are thrown away. ``copies`` of the weights of ``modules`` lie on the disk at most: those for use,
        and two checkpoints, while one replaces the other, of weights and moments.
        """
        seconds = timed(step)
        modules.zero_grad(set_to_none=True)
        if self.launched.is_main_process:
            needed = 4 * copies * sum(p.numel() for p in modules.parameters())
            estimate_cost(self.name, [Phase("all", self.steps - start, seconds)], needed, self.settings.out)
