"""`PoseNearness`: frames whose cameras are near that of the chunk (WorldKV).

WorldKV's distance of two poses is 0.5 ‖Δt‖² / max + 0.5 θ / max, with the angle θ = arccos((tr R₁ᵀR₂ − 1) / 2) and the
largest value over all candidates; poses are means over a chunk. That means of rotations are the nearest rotation to
the mean matrix is our reading. Any other overlap of views, such as that of an `FOVRetriever`, can be given instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.cameras.cameras import Cameras
from memkit.cameras.checks import check_cameras
from memkit.errors import InputError
from memkit.injectors.kv_cache.scores.base import Held, Score

Overlap = Callable[[Cameras, Cameras], Tensor]
"""How near frames are: from their cameras [frames] and those of the chunk [chunk] to numbers [frames]."""


class PoseNearness(Score):
    """The overlap of each frame's view with that of the chunk.

    Args:
        cameras: [frames] of the whole video, row p for position p.
        overlap: of the frames' cameras and the chunk's; by default WorldKV's distance, negative.

    Raises:
        InputError: cameras of another shape, or that are not plausible; later, a position that has no camera.
    """

    def __init__(self, cameras: Cameras, overlap: Overlap | None = None) -> None:
        check_cameras(cameras, "cameras", unknown_focal=True)
        if cameras.c2w.ndim != 3:
            raise InputError(f"The cameras are {list(cameras.c2w.shape[:-2])}; give [frames], row p for position p.")
        self.cameras, self.overlap = cameras, nearness if overlap is None else overlap

    def score(self, held: Held, positions: Sequence[int], chunk: Sequence[int]) -> Float[Tensor, " frames"]:
        return self.overlap(self._at(positions), self._at(chunk)).cpu() if positions else torch.zeros(0)

    def _at(self, positions: Sequence[int]) -> Cameras:
        count = len(self.cameras.c2w)
        if wrong := [p for p in positions if not 0 <= p < count]:
            raise InputError(f"There are cameras of frames 0 to {count - 1}, and none of {wrong}; give one for each.")
        return Cameras(self.cameras.c2w[list(positions)], self.cameras.intrinsics[list(positions)])


def nearness(frames: Cameras, chunk: Cameras) -> Float[Tensor, " frames"]:
    """The negative of WorldKV's distance of each frame's pose to the mean pose of the chunk; between −1 and 0."""
    poses, mean = frames.c2w.double(), chunk.c2w.double().mean(0)
    u, _, vh = torch.linalg.svd(mean[:3, :3])
    turn = u @ torch.diag(torch.tensor([1.0, 1.0, float(torch.linalg.det(u @ vh))], dtype=torch.float64).to(u)) @ vh
    shift = (poses[:, :3, 3] - mean[:3, 3]).pow(2).sum(-1)
    cosine = ((poses[:, :3, :3] * turn).sum((1, 2)) - 1) / 2
    angle = cosine.clamp(-1, 1).arccos()
    return -0.5 * sum(x / x.max().clamp(min=1e-12) for x in (shift, angle))  # type: ignore[operator]
