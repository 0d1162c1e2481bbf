"""Streaming: videos of any length from a causal model, remembered in a KV cache."""

from memkit.streaming.budget import window_bytes
from memkit.streaming.config import StreamConfig
from memkit.streaming.plan import VideoPlan
from memkit.streaming.presets import STREAM_PRESETS
from memkit.streaming.read_policies import read_everything, read_local, read_packed, read_window
from memkit.streaming.stream import Stream

__all__ = [
    "STREAM_PRESETS",
    "Stream",
    "StreamConfig",
    "VideoPlan",
    "read_everything",
    "read_local",
    "read_packed",
    "read_window",
    "window_bytes",
]
