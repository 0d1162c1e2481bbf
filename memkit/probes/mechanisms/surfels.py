"""Frames that saw the surfaces which the chunk's cameras see (VMem, arXiv 2506.18903)."""

from __future__ import annotations

from typing import Any, Literal

from diffusers import WanTransformer3DModel

from memkit.cameras.cameras import Cameras
from memkit.errors import InputError
from memkit.probes.batch import ProbeBatch
from memkit.probes.mechanisms.frames import FramesInView
from memkit.probes.probe import Probe
from memkit.retrievers.surfel_retriever import SurfelRetriever
from memkit.retrievers.surfels import SurfelRule

PIXELS = (36, 36)
"""Of the picture of the surfels: a frame of a probe has 4×4 cells."""


class FramesOfSurfels(FramesInView):
    """The frames that saw the surfaces in the chunk's views, in the sequence; for probes that give depth.

    ``select`` is that of `SurfelRetriever`, ``per_frame`` that of `FramesInView`.
    """

    def __init__(
        self,
        transformer: WanTransformer3DModel,
        probe: Probe[Any],
        per_frame: int = 1,
        select: Literal["poses", "votes"] = "poses",
    ) -> None:
        super().__init__(transformer, probe, per_frame, depth=True)
        self.select: Literal["poses", "votes"] = select

    def retriever(self, batch: ProbeBatch, sample: int) -> SurfelRetriever:
        past, depth = batch.memory_cameras, known_depth(batch)
        cameras = Cameras(past.c2w[sample], past.intrinsics[sample])
        return SurfelRetriever(cameras, depth[sample], SurfelRule(pixels=PIXELS), select=self.select)

    def held_bytes(self, batch: ProbeBatch) -> int:
        """All frames, and the map of the first sample."""
        own = self.retriever(batch.to("cpu"), 0).map.nbytes if batch.memory_times else 0
        return super().held_bytes(batch) + own


def known_depth(batch: ProbeBatch) -> Any:
    """The depth of the past frames. Raises `InputError` where the probe gives none."""
    if batch.depth is None:
        raise InputError("The probe does not give the depth of its past, which this mechanism needs; use depth=True.")
    return batch.depth
