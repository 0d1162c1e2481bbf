"""`CameraPath`: the cameras of a whole clip in the clip's own coordinate frame and scale, normalised once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.cameras.cameras import Cameras
from memkit.cameras.checks import check_cameras
from memkit.checks import MOST, check_list, check_whole, shown
from memkit.display import with_shapes
from memkit.errors import InputError

SIZE = 14
"""Length of a camera's vector."""

_LEAST_RADIUS = 0.01  # metres: the tremble of a camera that stands is not scaled up to a journey


@dataclass(frozen=True, eq=False)
class CameraPath:
    """One camera per latent frame, as position encodings take them.

    Make it from a whole clip, ``CameraPath.of(cameras)``, and take the rows of a chunk, ``path.frames([3, 4, 5])``: a
    chunk that is normalised by itself would have another origin and scale than the cached chunks.

    Attributes:
        c2w: camera to world, OpenCV axes. The world has the first camera's axes, the path's mean position as origin,
            and the path's largest radius as unit.
        focal: fx over the image's width, fy over its height; 0 if unknown.
        centre: cx over the image's width and cy over its height, from the middle of the image; None if unknown. Only
            `PRoPE` takes it, and only if asked to.
        vectors: [t, R row by row, log fx, log fy] of each camera; the logarithm of an unknown focal length is 0.
        projection: P = lift(K) · viewmat: from the path's world onto the image, the principal point at 0.
        unprojection: the inverse of ``projection``.
    """

    c2w: Float[Tensor, "batch frames 4 4"]
    focal: Float[Tensor, "batch frames 2"]
    centre: Float[Tensor, "batch frames 2"] | None = None
    # computed eagerly: a cached_property takes a lock on Python 3.11, which torch.compile cannot trace
    vectors: Float[Tensor, "batch frames 14"] = field(init=False, repr=False)
    projection: Float[Tensor, "batch frames 4 4"] = field(init=False, repr=False)
    unprojection: Float[Tensor, "batch frames 4 4"] = field(init=False, repr=False)

    __repr__ = with_shapes

    def __post_init__(self) -> None:
        for name, value in (
            ("vectors", self._vectors()),
            ("projection", self._projection()),
            ("unprojection", self._unprojection()),
        ):
            object.__setattr__(self, name, value)

    @staticmethod
    def of(cameras: Cameras) -> CameraPath:
        """The path of a clip's cameras, [frames] or [batch, frames] in temporal order, one per latent frame.

        Poses become relative to the first camera; then translations are centred and divided by the largest distance
        from the centre, 0.01 m at least (ReMind, arXiv 2605.25333; that the centre is the mean over frames, and that
        the projections share these poses with the vectors, is our reading). Focal lengths of 0 mean unknown. Computed
        in fp64, returned in the cameras' dtype, fp32 at least.

        Raises:
            InputError: other leading shapes, no frame, or a camera that is not plausible, see `check_cameras`.
        """
        check_cameras(cameras, "Cameras [clip, frame]", unknown_focal=True)
        c2w, focal, centre = cameras.c2w, cameras.intrinsics[..., :2], cameras.intrinsics[..., 2:] - 0.5
        if c2w.ndim == 3:
            c2w, focal, centre = c2w[None], focal[None], centre[None]
        if c2w.ndim != 4 or c2w.shape[1] == 0:
            raise InputError(f"A clip has cameras [frames] or [batch, frames], not {list(cameras.c2w.shape[:-2])}.")
        dtype, c2w = torch.promote_types(c2w.dtype, torch.float32), c2w.double()
        rotation, start = c2w[:, :1, :3, :3].mT, c2w[:, :1, :3, 3:]
        translation = rotation @ (c2w[..., :3, 3:] - start)
        translation = translation - translation.mean(dim=1, keepdim=True)
        radius = translation.norm(dim=2, keepdim=True).amax(dim=1, keepdim=True).clamp(min=_LEAST_RADIUS)
        relative = c2w.clone()
        relative[..., :3, :] = torch.cat([rotation @ c2w[..., :3, :3], translation / radius], dim=-1)
        return CameraPath(relative.to(dtype), focal.to(dtype), centre.to(dtype))

    def __len__(self) -> int:
        """The number of frames."""
        return self.c2w.shape[1]

    def frames(self, rows: Sequence[int]) -> CameraPath:
        """The cameras of some frames, in the given order, with repeats if wanted; they are not normalised again."""
        for row in check_list("rows", rows, "frames"):
            check_whole("A row of the path", row, -MOST)
        if not rows or min(rows) < 0 or max(rows) >= len(self):
            raise InputError(f"The path has frames 0 to {len(self) - 1}; {shown(list(rows))} are not among them.")
        centre = None if self.centre is None else self.centre[:, list(rows)]
        return CameraPath(self.c2w[:, list(rows)], self.focal[:, list(rows)], centre)

    def to(self, device: torch.device | str) -> CameraPath:
        """The same path on another device; on the model's own, no forward needs a copy."""
        centre = None if self.centre is None else self.centre.to(device)
        return CameraPath(self.c2w.to(device), self.focal.to(device), centre)

    def _vectors(self) -> Float[Tensor, "batch frames 14"]:
        focal = torch.where(self.focal > 0, self.focal, 1.0)
        return torch.cat([self.c2w[..., :3, 3], self.c2w[..., :3, :3].flatten(-2), focal.log()], dim=-1)

    def _projection(self) -> Float[Tensor, "batch frames 4 4"]:
        rotation, translation = self.c2w[..., :3, :3].double().mT, self.c2w[..., :3, 3:].double()
        view = self.c2w.double().clone()
        view[..., :3, :] = torch.cat([rotation, -rotation @ translation], dim=-1)
        return (self._lifted[..., :, None] * view).to(self.c2w.dtype)

    def _unprojection(self) -> Float[Tensor, "batch frames 4 4"]:
        return (self.c2w.double() / self._lifted[..., None, :]).to(self.c2w.dtype)

    @property
    def _lifted(self) -> Tensor:
        """The diagonal of K lifted to 4×4, in fp64."""
        focal = torch.where(self.focal > 0, self.focal, 1.0).double()
        return torch.cat([focal, torch.ones_like(focal)], dim=-1)
