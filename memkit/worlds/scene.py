"""Scenes for the ray caster: bodies of four shapes. World axes are x right, y away, z up, in metres."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.display import with_shapes
from memkit.errors import InputError

Shape = Literal["sphere", "box", "cylinder", "plane"]
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Body:
    """One body over ``frames``; constant tensors may have a single frame.

    ``half`` are half extents in the body's own axes: [radius, -, -] for a sphere, [radius, -, half height] for a
    cylinder, whose axis is z. A plane has none: it is infinite, faces its own +z, and is invisible from behind.
    ``rotation`` maps the body's axes to the world's. Colours are in [0, 1]. ``checker`` is the edge in metres of the
    squares of a two-tone pattern, 0 for none.
    """

    name: str
    shape: Shape
    centre: Float[Tensor, "#frames 3"]
    half: Float[Tensor, "#frames 3"]
    colour: Float[Tensor, "#frames 3"]
    rotation: Float[Tensor, "#frames 3 3"] | None = None
    checker: float = 0.0

    __repr__ = with_shapes


@dataclass(frozen=True)
class Scene:
    """Bodies in front of a sky of one colour; ``gain`` scales the light of each frame (1 is day, 0 is black)."""

    bodies: tuple[Body, ...]
    sky: Colour = (0.80, 0.82, 0.86)
    gain: Float[Tensor, " frames"] | None = None

    __repr__ = with_shapes

    @property
    def frames(self) -> int:
        """Number of frames of the moving parts; 1 if nothing moves. Raises `InputError` where parts disagree."""
        counts = {n for body in self.bodies for n in _lengths(body)}
        if self.gain is not None:
            counts.add(len(self.gain))
        counts.discard(1)
        if len(counts) > 1:
            raise InputError(f"Bodies move over {sorted(counts)} frames; give all the same number, or 1.")
        return counts.pop() if counts else 1

    def index(self, name: str) -> int:
        """The id of the named body's pixels in a `Render`."""
        for i, body in enumerate(self.bodies):
            if body.name == name:
                return i
        raise InputError(f"No body {name!r} among {[body.name for body in self.bodies]}.")


def body(
    name: str,
    shape: Shape,
    centre: Tensor | Sequence[float],
    half: Tensor | Sequence[float] | float,
    colour: Tensor | Sequence[float],
    rotation: Tensor | None = None,
    checker: float = 0.0,
) -> Body:
    """A `Body` from tensors or plain numbers, in float64; a single ``half`` applies to all axes."""

    def rows(value: Tensor | Sequence[float]) -> Tensor:
        tensor = torch.as_tensor(value, dtype=torch.float64)
        return tensor if tensor.ndim == 2 else tensor[None]

    half = rows((half, half, half)) if isinstance(half, int | float) else rows(half)
    rotation = rotation if rotation is None or rotation.ndim == 3 else rotation[None]
    return Body(name, shape, rows(centre), half, rows(colour), rotation, checker)


def rotation_about(angle: Float[Tensor, " frames"], axis: Literal["x", "y", "z"]) -> Float[Tensor, "frames 3 3"]:
    """Right-handed rotations by ``angle`` radians about an axis."""
    c, s, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    rows = {
        "x": [[one, zero, zero], [zero, c, -s], [zero, s, c]],
        "y": [[c, zero, s], [zero, one, zero], [-s, zero, c]],
        "z": [[c, -s, zero], [s, c, zero], [zero, zero, one]],
    }[axis]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def _lengths(body: Body) -> set[int]:
    tensors = (body.centre, body.half, body.colour, body.rotation)
    return {len(t) for t in tensors if t is not None}
