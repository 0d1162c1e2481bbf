"""Streaming: videos of any length from a causal model, remembered in a KV cache."""

from memkit.streaming.config import StreamConfig
from memkit.streaming.read_policies import read_everything, read_packed, read_window
from memkit.streaming.stream import Stream

__all__ = ["Stream", "StreamConfig", "read_everything", "read_packed", "read_window"]
