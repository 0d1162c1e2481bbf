"""Camera poses and intrinsics, in one convention.

``c2w`` are camera-to-world matrices with OpenCV axes (x right, y down, z forward), in metres.
``intrinsics`` are ``[fx, fy, cx, cy]`` in shares of the image: fx and cx over its width, fy and cy over its height, so
that they do not depend on the resolution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Cameras:
    """A batch of pinhole cameras; any leading shape, the same for both fields."""

    c2w: Float[Tensor, "*batch 4 4"]
    intrinsics: Float[Tensor, "*batch 4"]

    @staticmethod
    def look_at(
        eye: Float[Tensor, "*batch 3"], target: Float[Tensor, "*batch 3"], fov_degrees: float = 50.0
    ) -> Cameras:
        """Cameras at ``eye`` looking at ``target``, with world +z up and square pixels on a square image.

        ``fov_degrees`` is the full horizontal field of view. Looking straight up or down leaves the roll undefined and
        gives NaN.
        """
        forward = torch.nn.functional.normalize(target - eye, dim=-1)
        up = torch.tensor([0.0, 0.0, 1.0]).to(eye).expand_as(eye)
        right = torch.cross(forward, up, dim=-1)
        right = right / right.norm(dim=-1, keepdim=True)
        down = torch.cross(forward, right, dim=-1)
        c2w = torch.zeros(*eye.shape[:-1], 4, 4).to(eye)
        c2w[..., :3, :] = torch.stack([right, down, forward, eye], dim=-1)
        c2w[..., 3, 3] = 1.0
        focal = 0.5 / math.tan(math.radians(fov_degrees) / 2)
        intrinsics = torch.tensor([focal, focal, 0.5, 0.5]).to(eye).expand(*eye.shape[:-1], 4)
        return Cameras(c2w, intrinsics)

    def rays(
        self, height: int, width: int
    ) -> tuple[Float[Tensor, "*batch 3"], Float[Tensor, "*batch {height} {width} 3"]]:
        """Origins and unit directions in the world, one ray through each pixel centre."""
        v, u = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
        u, v = u.to(self.c2w), v.to(self.c2w)
        fx, fy, cx, cy = self.intrinsics[..., None, None, :].unbind(-1)
        x, y = (u - cx) / fx, (v - cy) / fy
        directions = torch.stack([x, y, torch.ones_like(x)], dim=-1)
        directions = torch.einsum("...ij,...hwj->...hwi", self.c2w[..., :3, :3], directions)
        return self.c2w[..., :3, 3], torch.nn.functional.normalize(directions, dim=-1)
