"""The kinds of interruption, their settings, and the degraded frames of each."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from memkit.checks import SEEDS, check_fields
from memkit.interruptions.rendering import Beyond, Look, fog_field, fogged, overlaid, panel, turned_view
from memkit.interruptions.timing import Timing
from memkit.video.frames import Video

Side = Literal["left", "right", "top", "bottom"]
Axis = Literal["yaw", "pitch"]
_INTO: dict[Side, tuple[float, float]] = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}
_OUT_OF_VIEW = 1.1  # frame widths or heights by which an occluder is moved to be out of view


@dataclass(frozen=True, kw_only=True)
class Interruption:
    """The base of all kinds. Settings are plain numbers and strings, checked in the constructor."""

    NAME: ClassVar[str]
    HELD_OUT: ClassVar[bool] = False  # never drawn for training
    PHRASE: ClassVar[str]  # how a caption tells of it

    timing: Timing = Timing()

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def draw(cls, rng: random.Random) -> Interruption:
        """Settings with jittered timing."""
        return cls(timing=cls.timing.jittered(rng))

    def caption(self, caption: str) -> str:
        """A caption of the uninterrupted clip, and what interrupts it: "a cat while the camera is off for a moment"."""
        return f"{caption.rstrip('. ')} {self.PHRASE.format(**vars(self))}"

    def _twin(self, frames: UInt8[Tensor, "t h w 3"]) -> UInt8[Tensor, "t h w 3"]:
        return frames

    def _cameras(self, amount: Float[Tensor, " t"], aspect: float) -> tuple[Tensor, Tensor]:
        return torch.eye(4).repeat(len(amount), 1, 1), torch.zeros(len(amount), 4)

    def _degraded(
        self, clip: Video, start: int, amount: Float[Tensor, " n"], c2w: Float[Tensor, "n 4 4"]
    ) -> Iterator[UInt8[Tensor, "h w 3"]]:
        """Frames from ``start`` on, one for each ``amount`` in (0, 1]."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Occluder(Interruption):
    """Something slides in from a ``side``, blocks the view, and slides on through, or back with ``leave="back"``.

    ``cover`` is the share of the frame's width and height that it hides during the hold; a curtain hides the full
    height. Boxes and cardboard stand on the lower edge of the frame; cloth hangs from the upper edge and sways.
    ``seed`` determines colours and texture.
    """

    NAME: ClassVar[str] = "occluder"
    PHRASE: ClassVar[str] = "while a {look} hides the view"

    look: Look = "box"
    side: Side = "left"
    leave: Literal["through", "back"] = "through"
    cover: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self, cover=(0.05, 1), seed=SEEDS)

    @classmethod
    def draw(cls, rng: random.Random) -> Occluder:
        """Any look from any side, hiding at least 0.7 of the frame. From above or below it leaves by the same side."""
        side = rng.choice(get_args(Side))
        return cls(
            timing=cls.timing.jittered(rng),
            look=rng.choice(get_args(Look)),
            side=side,
            leave=rng.choice(("through", "back")) if side in ("left", "right") else "back",
            cover=round(rng.uniform(0.7, 1.0), 3),
            seed=rng.randrange(2**31),
        )

    def _degraded(self, clip: Video, start: int, amount: Tensor, c2w: Tensor) -> Iterator[Tensor]:
        height, width = clip.frames.shape[1:3]
        layer = panel(self.look, height, width, self.cover, self.seed).to(clip.frames.device)
        leaving = int(amount.argmax())
        for i, share in enumerate(amount.tolist()):
            sign = -1 if i > leaving and share < 1 and self.leave == "through" else 1
            away = sign * _OUT_OF_VIEW * (1 - share)
            dx, dy = (away * component for component in _INTO[self.side])
            yield overlaid(clip.frames[start + i], layer, dx, dy, self.look, (start + i) / clip.fps)


@dataclass(frozen=True, kw_only=True)
class LightsOff(Interruption):
    """Pixel values are multiplied by ``gain`` during the hold, with ramps before and after."""

    NAME: ClassVar[str] = "lights-off"
    PHRASE: ClassVar[str] = "while the light goes out and on again"

    gain: float = 0.04

    def __post_init__(self) -> None:
        check_fields(self, gain=(0, 1))

    def _degraded(self, clip: Video, start: int, amount: Tensor, c2w: Tensor) -> Iterator[Tensor]:
        for i, share in enumerate(amount.tolist()):
            yield (clip.frames[start + i].float() * (1 - (1 - self.gain) * share)).round().byte()


@dataclass(frozen=True, kw_only=True)
class LookAway(Interruption):
    """A virtual camera turns away about its own centre, holds and comes back.

    Its image is cropped from the given frame, taken as that of a pinhole camera with square pixels and the full
    horizontal field of view ``fov_degrees``. It shows the share ``keep`` of the image plane, in the twin as well, so
    that the turned camera still finds pixels; ``beyond`` the frame they are mirrored or black. `keep_all` gives the
    largest ``keep`` that never looks beyond. ``degrees`` are to the right (yaw) or up (pitch); negative ones are to the
    other side.
    """

    NAME: ClassVar[str] = "look-away"
    PHRASE: ClassVar[str] = "while the camera looks away and back"

    timing: Timing = Timing(0.25, 0.40, 0.55, 0.70)
    degrees: float = 20.0
    axis: Axis = "yaw"
    beyond: Beyond = "reflect"
    keep: float = 0.6
    fov_degrees: float = 60.0

    def __post_init__(self) -> None:
        check_fields(self, degrees=(-60, 60), keep=(0.05, 1), fov_degrees=(5, 120))

    @classmethod
    def draw(cls, rng: random.Random) -> LookAway:
        """To any of the four sides, by 12° to 20°."""
        degrees = round(rng.choice((-1, 1)) * rng.uniform(12, 20), 2)
        return cls(timing=cls.timing.jittered(rng), degrees=degrees, axis=rng.choice(get_args(Axis)))

    def _focal(self, aspect: float) -> tuple[float, float]:
        """Focal lengths of the given frame, over its width and height."""
        fx = 0.5 / torch.tensor(self.fov_degrees / 2).deg2rad().tan().item()
        return fx, fx * aspect

    def _twin(self, frames: Tensor) -> Tensor:
        focal, straight = self._focal(frames.shape[2] / frames.shape[1]), torch.eye(3)
        return torch.stack([turned_view(frame, straight, focal, self.keep, self.beyond) for frame in frames])

    def _cameras(self, amount: Tensor, aspect: float) -> tuple[Tensor, Tensor]:
        angle = torch.deg2rad(self.degrees * amount)
        sin, cos = angle.sin(), angle.cos()
        c2w = torch.eye(4).repeat(len(amount), 1, 1)
        i, sign = (0, 1.0) if self.axis == "yaw" else (1, -1.0)  # y points down, so up is negative
        c2w[:, i, i], c2w[:, 2, 2], c2w[:, i, 2], c2w[:, 2, i] = cos, cos, sign * sin, -sign * sin
        fx, fy = self._focal(aspect)
        return c2w, torch.tensor([fx / self.keep, fy / self.keep, 0.5, 0.5]).expand(len(amount), 4)

    def _degraded(self, clip: Video, start: int, amount: Tensor, c2w: Tensor) -> Iterator[Tensor]:
        focal = self._focal(clip.frames.shape[2] / clip.frames.shape[1])
        for frame, pose in zip(clip.frames[start : start + len(amount)], c2w, strict=True):
            yield turned_view(frame, pose[:3, :3], focal, self.keep, self.beyond)


@dataclass(frozen=True, kw_only=True)
class CameraLoop(LookAway):
    """`LookAway` without a hold: the camera turns to its peak and back, symmetrically in time."""

    NAME: ClassVar[str] = "camera-loop"
    PHRASE: ClassVar[str] = "while the camera turns away and back"

    timing: Timing = Timing(0.14, 0.50, 0.50, 0.86)


@dataclass(frozen=True, kw_only=True)
class CameraOff(Interruption):
    """A cut to black, or the last clean frame frozen; without ramps."""

    NAME: ClassVar[str] = "camera-off"
    PHRASE: ClassVar[str] = "while the camera is off for a moment"

    timing: Timing = Timing(0.30, 0.30, 0.60, 0.60)
    show: Literal["black", "last"] = "black"

    @classmethod
    def draw(cls, rng: random.Random) -> CameraOff:
        """Black or frozen, with jittered timing."""
        return cls(timing=cls.timing.jittered(rng), show=rng.choice(("black", "last")))

    def _degraded(self, clip: Video, start: int, amount: Tensor, c2w: Tensor) -> Iterator[Tensor]:
        last = clip.frames[start - 1]
        yield from [last if self.show == "last" else torch.zeros_like(last)] * len(amount)


@dataclass(frozen=True, kw_only=True)
class Fog(Interruption):
    """White fog thickens, drifts and clears; held out from training. ``thickness`` is the optical depth in the hold."""

    NAME: ClassVar[str] = "fog"
    PHRASE: ClassVar[str] = "while fog thickens and clears"
    HELD_OUT: ClassVar[bool] = True

    thickness: float = 8.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self, thickness=(0, 100), seed=SEEDS)

    @classmethod
    def draw(cls, rng: random.Random) -> Fog:
        """Jittered timing and a random seed, for evaluation."""
        return cls(timing=cls.timing.jittered(rng), seed=rng.randrange(2**31))

    def _degraded(self, clip: Video, start: int, amount: Tensor, c2w: Tensor) -> Iterator[Tensor]:
        field = fog_field(*clip.frames.shape[1:3], self.seed).to(clip.frames.device)
        for i, share in enumerate(amount.tolist()):
            yield fogged(clip.frames[start + i], field, self.thickness * share, (start + i) / clip.fps)


KINDS: tuple[type[Interruption], ...] = (Occluder, LightsOff, LookAway, CameraLoop, CameraOff, Fog)
TRAINING_KINDS: tuple[type[Interruption], ...] = tuple(kind for kind in KINDS if not kind.HELD_OUT)
