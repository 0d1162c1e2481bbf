"""No past, and past frames in the model's own sequence: all, the newest, those of a rule, or packed ones."""

from __future__ import annotations

from contextlib import AbstractContextManager
from itertools import chain, zip_longest
from typing import Any

import torch
from diffusers import WanTransformer3DModel

from memkit.cameras.cameras import Cameras
from memkit.injectors.frame_context.config import FrameContextConfig
from memkit.injectors.frame_context.context import FrameContext
from memkit.probes.batch import ProbeBatch
from memkit.probes.mechanisms.base import Mechanism, frame_bytes
from memkit.probes.probe import Probe
from memkit.retrievers.fov import FOVRetriever
from memkit.retrievers.fov_points import Points
from memkit.retrievers.hits import Retriever


class NoMemory(Mechanism):
    """The chunk's cameras alone."""

    def shown(self, transformer: WanTransformer3DModel, batch: ProbeBatch) -> AbstractContextManager[Any]:
        return self.own_cameras(transformer, batch)

    def held_bytes(self, batch: ProbeBatch) -> int:
        return 0


class Window(Mechanism):
    """The newest ``newest`` frames in the sequence, or all (DFoT, arXiv 2502.06764, without its guidance)."""

    def __init__(self, transformer: WanTransformer3DModel, probe: Probe[Any], newest: int | None = None) -> None:
        super().__init__(transformer, probe)
        self.newest = newest

    def shown(self, transformer: WanTransformer3DModel, batch: ProbeBatch) -> AbstractContextManager[Any]:
        return self.in_sequence(transformer, self._kept(batch))

    def held_bytes(self, batch: ProbeBatch) -> int:
        return frame_bytes(batch) * len(self._kept(batch).memory_times)

    def _kept(self, batch: ProbeBatch) -> ProbeBatch:
        return batch if self.newest is None else batch.newest(self.newest)


class PackedFrames(Window):
    """All frames, the newest at full resolution, of the older ones two in one token (FramePack, arXiv 2504.12626)."""

    def __init__(self, transformer: WanTransformer3DModel, probe: Probe[Any], scale: int = 2) -> None:
        super().__init__(transformer, probe)
        older = 64 * scale
        config = FrameContextConfig.of(transformer, packing=((1, 1), (older, scale)))
        self.frames = FrameContext(config).initialise(transformer)


class FramesInView(Mechanism):
    """The frames whose field of view overlaps the chunk's most, in the sequence (Context-as-Memory, arXiv 2506.03141).

    ``per_frame`` frames for each frame of the chunk: these take turns, and each adds the best of its hits that is not
    selected yet. Where fewer overlap, the newest fill up. With ``depth``, where a probe gives it, what a frame's
    surfaces hide does not count.
    """

    def __init__(
        self, transformer: WanTransformer3DModel, probe: Probe[Any], per_frame: int = 1, depth: bool = False
    ) -> None:
        super().__init__(transformer, probe)
        self.per_frame, self.depth = per_frame, depth

    def shown(self, transformer: WanTransformer3DModel, batch: ProbeBatch) -> AbstractContextManager[Any]:
        return self.in_sequence(transformer, self.selected(batch) if batch.memory_times else batch)

    def selected(self, batch: ProbeBatch) -> ProbeBatch:
        """The batch with the selected frames alone, in temporal order."""
        k = min(self.per_frame * len(batch.times), len(batch.memory_times))
        here = batch.to("cpu")  # many small calls
        return batch.take(torch.stack([self._rows(here, sample, k) for sample in range(len(batch))]))

    def _rows(self, batch: ProbeBatch, sample: int, k: int) -> torch.Tensor:
        own, count = batch.cameras, len(batch.memory_times)
        wanted = [Cameras(*each) for each in zip(own.c2w[sample], own.intrinsics[sample], strict=True)]
        turns = chain.from_iterable(zip_longest(*(hits.ids for hits in self.retriever(batch, sample)(wanted, k=k))))
        found = [int(id) for id in turns if id is not None]
        return torch.tensor(sorted(list(dict.fromkeys([*found, *range(count - 1, -1, -1)]))[:k]))

    def retriever(self, batch: ProbeBatch, sample: int) -> Retriever[Any]:
        """What finds the frames of a sample's past, on the CPU."""
        past = batch.memory_cameras
        cameras = Cameras(past.c2w[sample], past.intrinsics[sample])
        if self.depth and batch.depth is not None:
            return FOVRetriever(cameras, Points(count=500), depth=batch.depth[sample])
        return FOVRetriever(cameras)
