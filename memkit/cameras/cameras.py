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

from memkit.checks import check_floats, check_number, check_room, check_whole
from memkit.display import MOST_ROWS, described, html_table
from memkit.errors import InputError


@dataclass(frozen=True)
class Cameras:
    """A batch of pinhole cameras; any leading shape, the same for both fields."""

    c2w: Float[Tensor, "*batch 4 4"]
    intrinsics: Float[Tensor, "*batch 4"]

    def __repr__(self) -> str:
        return described(self, f"{list(self.c2w.shape[:-2])} on {self.c2w.device}")

    def _repr_html_(self) -> str:
        """Position, viewing direction and horizontal field of view of each camera."""
        c2w, focal = self.c2w.detach().reshape(-1, 4, 4), self.intrinsics.detach()[..., 0].flatten()
        rows = []
        for i, (pose, fx) in enumerate(zip(c2w[:MOST_ROWS].tolist(), focal[:MOST_ROWS].tolist(), strict=True)):
            at, ahead = [row[3] for row in pose[:3]], [row[2] for row in pose[:3]]
            fov = f"{2 * math.degrees(math.atan(0.5 / fx)):.0f}°" if fx > 0 else "unknown"
            rows.append([i, *(", ".join(f"{x:.2f}" for x in vector) for vector in (at, ahead)), fov])
        heading = ["", "position (m)", "looks along", "field of view"]
        return html_table(repr(self), heading, rows, more=len(c2w) - len(rows))

    @staticmethod
    def look_at(
        eye: Float[Tensor, "*batch 3"], target: Float[Tensor, "*batch 3"], fov_degrees: float = 50.0
    ) -> Cameras:
        """Cameras at ``eye`` looking at ``target``, with world +z up and square pixels on a square image.

        ``fov_degrees`` is the full horizontal field of view, from 1° to 169°.

        Raises `InputError` for another field of view, and for a camera that looks straight up or down, which leaves the
        roll undefined, or at the place where it stands.
        """
        check_number("fov_degrees", fov_degrees, 1, 169)
        check_floats("eye", eye)
        check_floats("target", target)
        if eye.shape != target.shape or eye.shape[-1:] != (3,):
            raise InputError(f"eye is {list(eye.shape)} and target {list(target.shape)}; give points [..., 3].")
        forward = torch.nn.functional.normalize(target - eye, dim=-1)
        up = torch.tensor([0.0, 0.0, 1.0]).to(eye).expand_as(eye)
        right = torch.cross(forward, up, dim=-1)
        right = right / right.norm(dim=-1, keepdim=True)
        down = torch.cross(forward, right, dim=-1)
        c2w = torch.zeros(*eye.shape[:-1], 4, 4).to(eye)
        c2w[..., :3, :] = torch.stack([right, down, forward, eye], dim=-1)
        c2w[..., 3, 3] = 1.0
        if not bool(c2w.isfinite().all()):
            raise InputError(
                "A camera looks straight up or down, so that its roll is undefined, or at the place where it stands, "
                "or is not finite; give an eye and a target apart in x or y."
            )
        focal = 0.5 / math.tan(math.radians(fov_degrees) / 2)
        intrinsics = torch.tensor([focal, focal, 0.5, 0.5]).to(eye).expand(*eye.shape[:-1], 4)
        return Cameras(c2w, intrinsics)

    def rays(
        self, height: int, width: int
    ) -> tuple[Float[Tensor, "*batch 3"], Float[Tensor, "*batch {height} {width} 3"]]:
        """Origins and unit directions in the world, one ray through each pixel centre.

        Raises `InputError` for an empty or too large image, and for cameras without known focal lengths.
        """
        check_whole("height", height, 1)
        check_whole("width", width, 1)
        rays = self.c2w[..., 0, 0].numel() * height * width
        check_room(f"An image of {rays:,} rays", 3 * self.c2w.element_size() * rays, self.c2w.device)
        if not bool((self.intrinsics[..., :2] > 0).all()):
            raise InputError("Rays need focal lengths above 0; give intrinsics of known cameras.")
        v, u = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
        u, v = u.to(self.c2w), v.to(self.c2w)
        fx, fy, cx, cy = self.intrinsics[..., None, None, :].unbind(-1)
        x, y = (u - cx) / fx, (v - cy) / fy
        directions = torch.stack([x, y, torch.ones_like(x)], dim=-1)
        directions = torch.einsum("...ij,...hwj->...hwi", self.c2w[..., :3, :3], directions)
        return self.c2w[..., :3, 3], torch.nn.functional.normalize(directions, dim=-1)
