"""Mechanisms: ways in which a model sees the past of a probe."""

from collections.abc import Callable
from functools import partial

from memkit.probes.mechanisms.base import Mechanism, import_mechanism
from memkit.probes.mechanisms.cache import CachedKeys
from memkit.probes.mechanisms.forced import TeacherForced
from memkit.probes.mechanisms.frames import FramesInView, NoMemory, PackedFrames, Window
from memkit.probes.mechanisms.lifted import LatentsInSpace
from memkit.probes.mechanisms.queries import LearnedQueries, SeparateQueries
from memkit.probes.mechanisms.routed import RoutedFrames
from memkit.probes.mechanisms.state_space import CarriedState
from memkit.probes.mechanisms.surfels import FramesOfSurfels
from memkit.probes.mechanisms.tokens import EncodedClips

MECHANISMS: dict[str, Callable[..., Mechanism]] = {
    "none": NoMemory,
    "window": Window,
    "newest 4": partial(Window, newest=4),
    "fov": FramesInView,
    "framepack": PackedFrames,
    "queries (noise)": LearnedQueries,
    "queries (copy)": partial(LearnedQueries, query="copy", query_time="shared"),
    "query module": SeparateQueries,
    "encoder": EncodedClips,
    "kv cache": partial(CachedKeys, cameras="off"),
    "kv cache, pm-rope": CachedKeys,
    "state space": CarriedState,
}
"""memkit's own mechanisms, by the names of the table."""

__all__ = [
    "CachedKeys",
    "CarriedState",
    "EncodedClips",
    "FramesInView",
    "FramesOfSurfels",
    "LatentsInSpace",
    "LearnedQueries",
    "MECHANISMS",
    "Mechanism",
    "NoMemory",
    "PackedFrames",
    "RoutedFrames",
    "SeparateQueries",
    "TeacherForced",
    "Window",
    "import_mechanism",
]
