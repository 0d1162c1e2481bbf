"""Injectors: how memory reaches a model."""

from memkit.injectors.gate import MemoryGate
from memkit.injectors.monitor import AttentionMonitor
from memkit.injectors.self_attention import SelfAttentionConcat

__all__ = ["AttentionMonitor", "MemoryGate", "SelfAttentionConcat"]
