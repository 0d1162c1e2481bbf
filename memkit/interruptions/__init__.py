"""Interruptions: events that hide the view of a clip, and the uninterrupted twin."""

from memkit.interruptions.apply import InterruptedClip, interrupt
from memkit.interruptions.kinds import KINDS, CameraLoop, CameraOff, Fog, Interruption, LightsOff, LookAway, Occluder
from memkit.interruptions.posed import InterruptionName, PosedFrames, interrupt_posed, interrupt_still
from memkit.interruptions.timing import Phases, Timing

__all__ = [
    "KINDS",
    "CameraLoop",
    "CameraOff",
    "Fog",
    "InterruptedClip",
    "Interruption",
    "InterruptionName",
    "LightsOff",
    "LookAway",
    "Occluder",
    "Phases",
    "PosedFrames",
    "Timing",
    "interrupt",
    "interrupt_posed",
    "interrupt_still",
]
