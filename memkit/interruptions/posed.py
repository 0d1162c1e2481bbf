"""Interrupted clips with cameras, and a still that is interrupted."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor

from memkit.cameras.cameras import Cameras
from memkit.cameras.checks import check_cameras
from memkit.checks import MOST_FRAMES, check_choice, check_whole
from memkit.display import with_shapes
from memkit.errors import InputError
from memkit.interruptions.apply import InterruptedClip, interrupt
from memkit.interruptions.kinds import KINDS, CameraOff, Interruption, LookAway, Occluder
from memkit.interruptions.timing import STRIDE, Timing

InterruptionName = Literal["occluder", "lights-off", "look-away", "camera-loop", "camera-off", "fog"]
_RAMP = 4  # frames in which a still's interruption comes and goes
_AFTER = 10  # frames beyond the interruption, whose end `interrupt` keeps clean


class PosedFrames(NamedTuple):
    """Video frames with one camera per frame."""

    frames: UInt8[Tensor, "frames height width 3"]
    cameras: Cameras

    __repr__ = with_shapes


def interrupt_posed(
    frames: UInt8[Tensor, "frames height width 3"], cameras: Cameras | None, fps: float, by: Interruption
) -> tuple[PosedFrames, PosedFrames]:
    """A clip that is interrupted, and its twin, each with cameras.

    A virtual camera that turns (`LookAway`) turns the given ``cameras`` [frames] and has their field of view, if it is
    known. Without ``cameras`` the camera is taken to stand still, at the identity.

    Raises `InputError` as `interrupt` does, and for cameras that are not plausible or not one per frame.
    """
    if cameras is not None:
        check_cameras(cameras, "The cameras of the clip", unknown_focal=True)
        if cameras.c2w.shape != (len(frames), 4, 4):
            raise InputError(
                f"There are cameras {list(cameras.c2w.shape[:-2])} for {len(frames)} frames; give one each."
            )
    turns = isinstance(by, LookAway)
    if turns and cameras is not None and (fx := float(cameras.intrinsics[0, 0])) > 0:
        by = replace(by, fov_degrees=float(torch.tensor(0.5 / fx).atan().rad2deg() * 2))
    clip = interrupt(frames, fps, by)
    own = cameras or Cameras(torch.eye(4).repeat(len(frames), 1, 1), torch.zeros(len(frames), 4))
    intrinsics = (clip.intrinsics if turns else own.intrinsics).to(own.intrinsics)
    turned = Cameras(own.c2w @ clip.c2w.to(own.c2w), intrinsics)
    return PosedFrames(clip.video, turned), PosedFrames(clip.twin, Cameras(own.c2w, intrinsics))


def interrupt_still(
    kind: InterruptionName, frame: UInt8[Tensor, "height width 3"], count: int, fps: float
) -> InterruptedClip:
    """``frame`` held, and interrupted in the frames 1 to ``count``; frame 0 and the last 9 frames are clean.

    The interruption hides all that it can: an occluder covers the whole frame, a camera that turns looks from the whole
    frame.

    Raises `InputError` for an unknown kind, and for less than one frame.
    """
    check_whole("count", count, 1, STRIDE * MOST_FRAMES)
    check_choice("The kind", kind, [each.NAME for each in KINDS])
    cls = next(each for each in KINDS if kind == each.NAME)
    frames = count + _AFTER
    ramp = 0 if cls is CameraOff else min(_RAMP, count // 2)
    timing = Timing(*(x / (frames - 1) for x in (0, ramp, count + 1 - ramp, count + 1)))
    if issubclass(cls, Occluder):
        by = cls(timing=timing, cover=1.0)
    else:
        by = cls(timing=timing, keep=1.0) if issubclass(cls, LookAway) else cls(timing=timing)
    return interrupt(frame.expand(frames, *frame.shape), fps, by)
