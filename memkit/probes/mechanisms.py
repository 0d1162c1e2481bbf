"""memkit's own mechanisms for the probes: no past, and frames in the model's sequence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from diffusers import WanTransformer3DModel

from memkit.injectors.frame_context.context import FrameContext
from memkit.probes.batch import ProbeBatch
from memkit.probes.mechanism import Mechanism, frame_bytes


class NoMemory(Mechanism):
    """The chunk's cameras alone."""

    def shown(self, transformer: WanTransformer3DModel, batch: ProbeBatch) -> AbstractContextManager[None]:
        return self.own_cameras(transformer, batch)

    def held_bytes(self, batch: ProbeBatch) -> int:
        return 0


class Window(Mechanism):
    """The newest frames in the model's own sequence, by default all (DFoT, arXiv 2502.06764, without its guidance)."""

    newest: int | None = None

    def shown(self, transformer: WanTransformer3DModel, batch: ProbeBatch) -> AbstractContextManager[Any]:
        return in_sequence(self.frames, transformer, self._kept(batch))

    def held_bytes(self, batch: ProbeBatch) -> int:
        return frame_bytes(batch) * len(self._kept(batch).memory_times)

    def _kept(self, batch: ProbeBatch) -> ProbeBatch:
        return batch if self.newest is None else batch.newest(self.newest)


@contextmanager
def in_sequence(frames: FrameContext, transformer: WanTransformer3DModel, batch: ProbeBatch) -> Iterator[None]:
    """Inside, all frames of the batch's past are in the sequence of the chunk, at their times."""
    own, past = batch.poses()
    if not batch.memory_times:
        with frames.attach(transformer) as attached, attached.chunk(None, cameras=own):
            yield
        return
    start = batch.times[0]
    with (
        frames.attach(transformer) as attached,
        attached.chunk(
            batch.memory,
            positions=[time - start for time in batch.times],
            context_positions=[time - start for time in batch.memory_times],
            cameras=own,
            context_cameras=past,
        ),
    ):
        yield
