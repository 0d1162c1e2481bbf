"""Rollouts: long videos chunk by chunk, with any context method."""

from memkit.rollout.attention import RolloutAttention
from memkit.rollout.base import ContextMethod
from memkit.rollout.echo import LAYOUTS, EchoContext, EchoLayout
from memkit.rollout.frames import Selection
from memkit.rollout.history import History
from memkit.rollout.long_videos import LongVideos
from memkit.rollout.methods import (
    LearnedContext,
    NewestContext,
    NoContext,
    PackedContext,
    RetrievedContext,
    SeparateContext,
)
from memkit.rollout.rollout import Rollout

__all__ = [
    "ContextMethod",
    "EchoContext",
    "EchoLayout",
    "History",
    "LAYOUTS",
    "LearnedContext",
    "LongVideos",
    "NewestContext",
    "NoContext",
    "PackedContext",
    "RetrievedContext",
    "Rollout",
    "RolloutAttention",
    "SeparateContext",
    "Selection",
]
