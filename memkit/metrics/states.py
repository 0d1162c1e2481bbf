"""The state of an event from its pixels: by the geometry of the camera and of the body, never by the state to be found.

On rendered truth at 64×64, five to nine clips of each kind of both suites, the mean error is 0.05 to 0.25 % of the
frame's width (heat 0.4 %, the orbit 0.5 %: it is seen so flat that a pixel is a third of a metre of depth), the worst
of a single frame 2 % (of the orbit, behind its pole, 4 %). Blurred by two pixels, with a cast of 0.08 and noise of
0.03, it is 0.1 to 0.6 %; of colours 1 to 3 %.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from memkit.metrics.track import Track, track_body
from memkit.worlds.event import Event, at, camera, times
from memkit.worlds.scene import Body

FRAME = 2 * 7.2 * math.tan(math.radians(19))  # metres across the frame at the plane y=0, 4.96
PERIODS = {"axis": math.pi, "angle": 2 * math.pi, "ground": 2 * math.pi}
"""After how much the state looks the same again, by what an event shows."""
OFF_PATH = 0.08  # most distance, in shares of the frame, of a body from the circle it goes round


def measure_state(video: UInt8[Tensor, "frames height width 3"], event: Event) -> dict[str, Float[Tensor, " frames"]]:
    """The variables of ``event.units`` at each frame of a clip, rendered or generated; NaN where they are not seen.

    A body that the frame cuts off is not seen. No frame tells how often something has turned: angles start in (-π, π],
    an axis in (-π/2, π/2], and go on from frame to frame the nearest way.
    """
    if event.shows == "pair":
        colours = event.colour, event.other_colour  # pyright: ignore
        tracks = [track_body(video, event, colour) for colour in colours]
        bodies = _body(event), _body(event, "other")
        places = [_place(track, body)[:, 0] for track, body in zip(tracks, bodies, strict=True)]
        return dict(zip(event.units, places, strict=True))
    track, body = track_body(video, event), _body(event)
    if event.shows == "place":
        place = _place(track, body)
        return {name: place[:, "xz".index(name)] for name in event.units}
    read = {"angle": _angle, "axis": _axis, "ground": _ground, "top": _top, "radius": _radius, "blend": _blend}
    value = read[event.shows](track, body, event)
    if period := PERIODS.get(event.shows):
        value = _unwrapped(value, period)
    return {next(iter(event.units)): value}


def frame_shares(event: Event) -> float:
    """How much of the frame's width one unit of the state is: a metre, a radian at the arm's end, the whole of a level.

    A blend has no place; the whole of it counts as the whole frame.
    """
    if event.shows == "blend":
        return 1.0
    arms = {"swing": getattr(event, "length", 1.0), "clock": 1.4, "spin": 1.5, "orbit": 1.4}
    return (event.HEIGHT if event.shows == "top" else arms.get(event.kind, 1.0)) / FRAME  # pyright: ignore


def _body(event: Event, name: str = "body") -> Body:
    """For its shape, and those of its measures that do not change."""
    return next(body for body in event.bodies(times(1)) if body.name == name)


def _place(track: Track, body: Body) -> Tensor:
    """Centres (x, z) in the plane y=0 [frames, 2]: where the middle of the body's outline is that of the mask."""
    seen = track.centre.masked_fill(~track.whole[:, None], torch.nan)
    flat = place = _meet(seen)
    for _ in range(4):
        centre = at(place[:, 0], 0.0, place[:, 1])
        place = place + flat - _meet(_outline(body.shape, body.half[0], centre))
    return place


def _angle(track: Track, body: Body, event: Event) -> Tensor:
    """From straight down, positive to the right, of a ball or of the front of a hand about a pivot."""
    seen = track.centre.masked_fill(~track.whole[:, None], torch.nan)
    place = _place(track, body) if body.shape == "sphere" else _meet(seen)
    x, z = event.PIVOT  # pyright: ignore
    return torch.atan2(place[:, 0] - x, z - place[:, 1])


def _axis(track: Track, body: Body, event: Event) -> Tensor:
    return track.axis.masked_fill(~track.whole, torch.nan)


def _ground(track: Track, body: Body, event: Event) -> Tensor:
    """The angle of the place on the circle that is seen nearest to the body.

    Depth moves a body on the ground so little in the image that a ray through it, cut with the ground, would be bad.
    """
    angle = torch.linspace(-math.pi, math.pi, 1441, dtype=torch.float64)[1:]
    radius, high = event.RADIUS, event.HALF  # pyright: ignore
    path = _outline(body.shape, body.half[0], at(radius * angle.cos(), radius * angle.sin(), high))
    off, best = torch.cdist(track.centre, path).min(1)
    return torch.where(track.whole & (off < OFF_PATH), angle[best], torch.nan)


def _top(track: Track, body: Body, event: Event) -> Tensor:
    """From above one sees the rear edge of the top highest, from below the front edge."""
    top = torch.stack([torch.full_like(track.area, 0.5), track.box[:, 1]], dim=-1)
    deep = float(body.half[0, 1]) * (0.92 if body.shape == "cylinder" else 1.0)  # beside the middle it is less
    high = torch.minimum(_meet(top, -deep)[:, 1], _meet(top, deep)[:, 1])
    return high.clamp(min=0) / event.HEIGHT  # pyright: ignore


def _radius(track: Track, body: Body, event: Event) -> Tensor:
    """Of a ball that rests on the floor, by the area of its outline: an ellipse, see `_outline`."""
    radius = torch.linspace(0.05, 2.0, 1951, dtype=torch.float64)
    _, y, z = _view(at(0.0, 0.0, radius)).unbind(-1)
    k = y**2 + z**2 - radius**2
    intrinsics = camera().intrinsics[0]
    area = math.pi * radius**2 * k.sqrt() / (z**2 - radius**2) ** 1.5 * intrinsics[0] * intrinsics[1]
    best = torch.searchsorted(area, track.area.contiguous().nan_to_num(0.0)).clamp(max=len(radius) - 1)
    return torch.where(track.whole, radius[best], torch.nan)


def _blend(track: Track, body: Body, event: Event) -> Tensor:
    """The share of the second end in the mixture that, in some light, is nearest to the colour seen."""
    ends = torch.tensor(event.ends()).double()  # pyright: ignore
    parts = track.colour @ torch.linalg.pinv(ends)
    return (parts[:, 1] / parts.sum(1)).clamp(0, 1)


def _unwrapped(angle: Tensor, period: float) -> Tensor:
    known = ~angle.isnan()
    step = torch.diff(angle[known], prepend=angle[known][:1])
    step = step - period * (step / period).round()
    out = angle.clone()
    out[known] = angle[known][:1] + step.cumsum(0)
    return out


def _view(point: Tensor) -> Tensor:
    """Points of the world [..., 3] in the camera's axes: right, down, forward."""
    c2w = camera().c2w[0]
    return (point - c2w[:3, 3]) @ c2w[:3, :3]


def _seen(point: Tensor) -> Tensor:
    """Where points of the world [..., 3] are in the image [..., 2], in shares of it."""
    intrinsics, view = camera().intrinsics[0], _view(point)
    return view[..., :2] / view[..., 2:] * intrinsics[:2] + intrinsics[2:]


def _meet(seen: Tensor, y: float = 0.0) -> Tensor:
    """Where the rays through the image [frames, 2] meet the plane at ``y``: (x, z) in metres."""
    intrinsics, c2w = camera().intrinsics[0], camera().c2w[0]
    ray = torch.cat([(seen - intrinsics[2:]) / intrinsics[:2], torch.ones_like(seen[:, :1])], dim=-1) @ c2w[:3, :3].T
    return (c2w[:3, 3] + ray * ((y - c2w[1, 3]) / ray[:, 1:2]))[:, [0, 2]]


def _outline(shape: str, half: Tensor, centre: Tensor) -> Tensor:
    """Middle of the area that a ball, or a box along the axes, covers in the image [frames, 2]."""
    if shape == "sphere":  # an ellipse: the rays d with (c·d)² = (c² - r²) d²
        view, intrinsics = _view(centre), camera().intrinsics[0]
        return view[:, :2] * view[:, 2:] / (view[:, 2:] ** 2 - half[0] ** 2) * intrinsics[:2] + intrinsics[2:]
    signs = torch.tensor([[-1, -1], [-1, 1], [1, 1], [1, -1]], dtype=torch.float64)
    total, weight = torch.zeros(len(centre), 2, dtype=torch.float64), torch.zeros(len(centre), 1, dtype=torch.float64)
    for axis in range(3):  # the face on this axis that looks at the camera, if either does
        other = [i for i in range(3) if i != axis]
        toward = camera().c2w[0, axis, 3] - centre[:, axis]
        corner = (
            centre[:, None] + torch.zeros(4, 3, dtype=torch.float64).index_copy(1, torch.tensor(other), signs) * half
        )
        corner[:, :, axis] += toward.sign()[:, None] * half[axis]
        a, b = _seen(corner), _seen(corner).roll(-1, 1)
        cross = a[..., :1] * b[..., 1:] - a[..., 1:] * b[..., :1]
        area = torch.where((toward.abs() > half[axis])[:, None], 0.5 * cross.sum(1), 0.0)
        middle = ((a + b) * cross).sum(1) / (3 * cross.sum(1))
        total, weight = total + area.abs() * middle.nan_to_num(), weight + area.abs()
    return torch.where(centre.isnan().any(-1, keepdim=True), torch.nan, total / weight)
