"""Streaming: videos of any length from a causal model, remembered in a KV cache."""

from memkit.streaming.budget import window_bytes
from memkit.streaming.config import StreamConfig
from memkit.streaming.memories import MEMORY_PRESETS, StreamMemory
from memkit.streaming.plan import VideoPlan
from memkit.streaming.presets import STREAM_PRESETS
from memkit.streaming.read_best import ReadBest
from memkit.streaming.read_policies import read_everything, read_local, read_packed, read_window
from memkit.streaming.stream import Stream

__all__ = [
    "MEMORY_PRESETS",
    "STREAM_PRESETS",
    "ReadBest",
    "Stream",
    "StreamConfig",
    "StreamMemory",
    "VideoPlan",
    "read_everything",
    "read_local",
    "read_packed",
    "read_window",
    "window_bytes",
]
