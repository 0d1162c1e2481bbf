"""Procedural rendering of interruptions: occluders, fog and turned views."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from memkit.errors import InputError

Look = Literal["box", "cardboard", "bed-sheet", "curtain"]
Beyond = Literal["reflect", "black"]
_MARGIN = 0.1  # share of the frame on each side, so that swaying cloth does not end within the frame
_SWAY = 0.012  # frame widths
_COLOURS: dict[Look, tuple[tuple[float, float, float], ...]] = {
    "box": ((0.62, 0.47, 0.31), (0.72, 0.70, 0.66), (0.28, 0.38, 0.52), (0.35, 0.44, 0.33)),
    "cardboard": ((0.66, 0.51, 0.35), (0.58, 0.44, 0.30), (0.73, 0.60, 0.44)),
    "bed-sheet": ((0.88, 0.87, 0.84), (0.72, 0.80, 0.88), (0.89, 0.80, 0.80), (0.80, 0.86, 0.76)),
    "curtain": ((0.55, 0.12, 0.14), (0.14, 0.22, 0.45), (0.16, 0.36, 0.26), (0.52, 0.42, 0.22)),
}


def panel(look: Look, height: int, width: int, cover: float, seed: int) -> Float[Tensor, "4 canvas_h canvas_w"]:
    """An occluder at rest before a frame of ``height`` × ``width``: RGB premultiplied by alpha, and alpha, in [0, 1].

    The canvas is the frame extended by a tenth, in whole pixels, on each side.
    """
    random = torch.Generator().manual_seed(seed)
    colours = _COLOURS[look]
    colour = torch.tensor(colours[int(torch.randint(len(colours), (), generator=random))])
    colour = colour * (0.92 + 0.16 * torch.rand((), generator=random))
    q = _canvas_centres(height)[:, None]
    p = _canvas_centres(width)[None, :]
    cloth = look in ("bed-sheet", "curtain")
    side = 0.5 * cover + (2 * _SWAY + 1 / width if cloth else 0.0)
    left, right = torch.full_like(q, 0.5 - side), torch.full_like(q, 0.5 + side)
    top, bottom = torch.tensor(-_MARGIN), torch.tensor(1 + _MARGIN)
    if look == "box":
        slant = 0.4 * (1 - cover + _LID - q).clamp(min=0)
        left, right = left + slant, right - slant
    if look in ("box", "cardboard"):
        top = torch.tensor(1 - cover)
    if look == "bed-sheet":
        bottom = cover + 0.02 * torch.sin(2 * math.pi * (2.3 * p + torch.rand((), generator=random))) + 0.02
    inside = [(p - left) * width, (right - p) * width, (q - top) * height, (bottom - q) * height]
    edge = torch.stack(torch.broadcast_tensors(*inside)).amin(0)  # pixels to the nearest edge
    draw = {"box": _box, "cardboard": _cardboard, "bed-sheet": _sheet, "curtain": _curtain}[look]
    rgb = draw(colour, p, q, 1 - cover, random)
    if not cloth:
        rgb = rgb * torch.where(edge < 0.012 * width, 0.8, 1.0)
    alpha = (edge + 0.5).clamp(0, 1)
    return torch.cat([rgb.clamp(0, 1) * alpha, alpha[None]])


def overlaid(
    frame: UInt8[Tensor, "height width 3"],
    layer: Float[Tensor, "4 canvas_h canvas_w"],
    dx: float,
    dy: float,
    look: Look,
    second: float,
) -> UInt8[Tensor, "height width 3"]:
    """A frame behind a `panel` that is moved by ``dx`` frame widths to the right and ``dy`` frame heights down."""
    q, p = torch.meshgrid(*(_centres(n).to(layer) for n in frame.shape[:2]), indexing="ij")
    p, q = p - dx, q - dy
    if look in ("bed-sheet", "curtain"):  # hung from above: lower parts sway farther
        p = p + _SWAY * q.clamp(0, 1) * torch.sin(2 * math.pi * (0.9 * second - 0.8 * q))
    shares = torch.tensor(frame.shape[:2]).to(layer) / torch.tensor(layer.shape[1:]).to(layer)  # frame of canvas
    grid = (2 * torch.stack([p, q], -1) - 1) * shares.flip(0)
    moved = F.grid_sample(layer[None], grid[None], align_corners=False)[0]
    image = frame.float().permute(2, 0, 1) * (1 - moved[3]) + 255 * moved[:3]
    return image.round().clamp(0, 255).byte().permute(1, 2, 0)


def fog_field(height: int, width: int, seed: int) -> Float[Tensor, "{height} {width}"]:
    """Density of fog, from 0 (thin) to 1 (thick)."""
    random = torch.Generator().manual_seed(seed)
    return 0.65 * _noise(random, height, width, 3) + 0.35 * _noise(random, height, width, 9)


def fogged(
    frame: UInt8[Tensor, "height width 3"], field: Float[Tensor, "height width"], thickness: float, second: float
) -> UInt8[Tensor, "height width 3"]:
    """A frame behind white fog of optical depth ``thickness`` that drifts to the left."""
    v, u = torch.meshgrid(*(2 * _centres(n).to(field) - 1 for n in frame.shape[:2]), indexing="ij")
    grid = torch.stack([u + 0.12 * second, v], -1)[None]
    density = F.grid_sample(field[None, None], grid, padding_mode="reflection", align_corners=False)[0, 0, :, :, None]
    seen = torch.exp(-thickness * (0.5 + density))
    return (frame.float() * seen + (225 + 22 * density) * (1 - seen)).round().clamp(0, 255).byte()


def turned_view(
    frame: UInt8[Tensor, "height width 3"],
    rotation: Float[Tensor, "3 3"],
    focal: tuple[float, float],
    keep: float,
    beyond: Beyond,
) -> UInt8[Tensor, "height width 3"]:
    """The image of a camera at the same position, turned by ``rotation`` (from its axes to the frame's camera's).

    The frame is resampled bilinearly by the homography K R K'⁻¹. ``focal`` is the frame's, over width and height; the
    camera's is 1 / ``keep`` times as long; both have their principal point in the middle.

    Raises:
        InputError: a pixel would come from behind the frame's camera.
    """
    v, u = torch.meshgrid(*(_centres(n).to(frame.device) - 0.5 for n in frame.shape[:2]), indexing="ij")
    rays = torch.stack([u * (keep / focal[0]), v * (keep / focal[1]), torch.ones_like(u)], -1) @ rotation.to(u).T
    if (rays[..., 2] < 1e-3).any():
        raise InputError(
            "The camera turns so far that it looks behind the given one; lower degrees, keep or fov_degrees."
        )
    grid = rays[..., :2] / rays[..., 2:] * (2 * torch.tensor(focal).to(u))
    image = frame.float().permute(2, 0, 1)[None]
    mode = "reflection" if beyond == "reflect" else "zeros"
    return F.grid_sample(image, grid[None], padding_mode=mode, align_corners=False)[0].round().byte().permute(1, 2, 0)


def keep_all(degrees: float, fov_degrees: float) -> float:
    """The largest ``keep`` for which a view turned by ``degrees`` lies within a frame of ``fov_degrees``.

    The field of view is the horizontal one for yaw, the vertical one for pitch.

    Raises:
        InputError: ``degrees`` are half of the field of view or more, so that there is none.
    """
    half, rotation = math.radians(fov_degrees / 2), math.radians(abs(degrees))
    if not rotation < half:
        raise InputError(
            f"A rotation by {degrees}° leaves a field of view of {fov_degrees}°; turn by less than half of it."
        )
    return math.tan(half - rotation) / math.tan(half)


_LID = 0.13  # height of a box's upper face, in frame heights


def _box(colour: Tensor, p: Tensor, q: Tensor, top: float, random: torch.Generator) -> Tensor:
    """A closed box seen slightly from above: a lid, and a front with a strip of tape and a label."""
    grain = _grain(random, q.shape[0], p.shape[1])
    front = (1.04 - 0.16 * p) * (q >= top + _LID) + 1.22 * (q < top + _LID)
    rgb = colour[:, None, None] * front * (1 + 0.03 * grain)
    tape = ((p - 0.5).abs() < 0.045) & (q < top + _LID + 0.3)
    rgb = torch.where(tape, 0.45 * rgb + 0.55 * torch.tensor([0.80, 0.72, 0.56])[:, None, None], rgb)
    x, y = 0.58 + 0.1 * float(torch.rand((), generator=random)), 0.6 + 0.1 * float(torch.rand((), generator=random))
    label = ((p - x) > 0) & ((p - x) < 0.16) & ((q - y) > 0) & ((q - y) < 0.13)
    lines = ((q - y) * 30 % 1 > 0.6) & (p - x > 0.02) & (p - x < 0.13)
    return torch.where(label, torch.where(lines, 0.35, 0.9), rgb) * torch.where((q - top - _LID).abs() < 0.005, 0.7, 1)


def _cardboard(colour: Tensor, p: Tensor, q: Tensor, top: float, random: torch.Generator) -> Tensor:
    """A flat sheet of corrugated board with two creases."""
    lines = min(48.0, p.shape[1] / 7)
    shade = 1 + 0.035 * torch.sin(2 * math.pi * lines * p) + 0.14 * (_noise(random, q.shape[0], p.shape[1], 4) - 0.5)
    shade = shade + 0.035 * _grain(random, q.shape[0], p.shape[1])
    for _ in range(2):
        height = 0.15 + 0.7 * float(torch.rand((), generator=random))
        tilt = 0.1 * float(torch.rand((), generator=random)) - 0.05
        shade = shade - 0.22 * torch.exp(-(((q - height - tilt * p) / 0.007) ** 2))
    return colour[:, None, None] * shade


def _sheet(colour: Tensor, p: Tensor, q: Tensor, top: float, random: torch.Generator) -> Tensor:
    """Pale cloth with soft folds and faint stripes."""
    bumps = _noise(random, q.shape[0], p.shape[1], 8, 4) + 0.4 * _noise(random, q.shape[0], p.shape[1], 5)
    slope = torch.gradient(bumps, dim=1)[0] * p.shape[1]
    slope = slope + 0.8 * torch.gradient(bumps, dim=0)[0] * q.shape[0]
    stripes = 0.05 * torch.tanh(6 * torch.sin(2 * math.pi * 9 * (p + 0.03 * bumps)))
    return colour[:, None, None] * (0.9 - 0.16 * torch.tanh(0.25 * slope) + stripes)


def _curtain(colour: Tensor, p: Tensor, q: Tensor, top: float, random: torch.Generator) -> Tensor:
    """Vertical folds that widen and wander slightly towards the bottom."""
    wander = _noise(random, q.shape[0], p.shape[1], 6, 6)
    folds = 7 + 4 * float(torch.rand((), generator=random))
    wave = torch.sin(2 * math.pi * (folds * p + (0.3 + 0.6 * q.clamp(0, 1)) * wander))
    return colour[:, None, None] * (0.78 + 0.3 * wave)


def _centres(count: int) -> Tensor:
    return (torch.arange(count) + 0.5) / count


def _canvas_centres(count: int) -> Tensor:
    """Pixel centres of a canvas, in frame widths or heights from the frame's first edge."""
    margin = math.ceil(count * _MARGIN)  # whole pixels, so that at rest a canvas is not blurred
    return (torch.arange(count + 2 * margin) + 0.5 - margin) / count


def _noise(random: torch.Generator, height: int, width: int, cells: int, tall: int = 1) -> Tensor:
    """Smooth noise in [0, 1], with about ``cells`` bumps across, each ``tall`` times as tall as wide."""
    coarse = torch.rand(1, 1, max(2, round(cells * height / width / tall)) + 2, cells + 2, generator=random)
    return F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)[0, 0].clamp(0, 1)


def _grain(random: torch.Generator, height: int, width: int) -> Tensor:
    """Horizontal fibres, in [-1, 1]."""
    coarse = 2 * torch.rand(1, 1, height, max(2, width // 8), generator=random) - 1
    return F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=True)[0, 0]
