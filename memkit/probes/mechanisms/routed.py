"""The past in the sequence; each query attends to a few frames of it (Mixture of Contexts, arXiv 2508.21058)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers import WanTransformer3DModel

from memkit.injectors.routed_context import RoutedContext
from memkit.probes.batch import ProbeBatch
from memkit.probes.mechanisms.base import Mechanism
from memkit.probes.probe import Probe


class RoutedFrames(Mechanism):
    """All past frames in the sequence; each query of each head sees its own frame and the ``k`` that it fits best."""

    def __init__(self, transformer: WanTransformer3DModel, probe: Probe[Any], k: int = 2) -> None:
        super().__init__(transformer, probe)
        self.routes = RoutedContext(k)

    @contextmanager
    def shown(self, transformer: WanTransformer3DModel, batch: ProbeBatch) -> Iterator[None]:
        with self.routes.attach(transformer), self.in_sequence(transformer, batch):
            yield
