"""Interruptions: events that hide the view of a clip, and the uninterrupted twin."""

from memkit.interruptions.apply import InterruptedClip, interrupt
from memkit.interruptions.kinds import KINDS, CameraLoop, CameraOff, Fog, Interruption, LightsOff, LookAway, Occluder
from memkit.interruptions.timing import Timing

__all__ = [
    "KINDS",
    "CameraLoop",
    "CameraOff",
    "Fog",
    "InterruptedClip",
    "Interruption",
    "LightsOff",
    "LookAway",
    "Occluder",
    "Timing",
    "interrupt",
]
