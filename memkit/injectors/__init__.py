"""Injectors: how memory reaches a model."""

from memkit.injectors.cache_slots import BudgetError
from memkit.injectors.camera_encoder import CameraEncoder, pose_numbers
from memkit.injectors.gate import MemoryGate
from memkit.injectors.kv_cache import KVCache, frame_bytes
from memkit.injectors.monitor import AttentionMonitor
from memkit.injectors.query_layers import QueryLayers, QueryLayersConfig
from memkit.injectors.self_attention import SelfAttentionConcat

__all__ = [
    "AttentionMonitor",
    "BudgetError",
    "CameraEncoder",
    "KVCache",
    "MemoryGate",
    "QueryLayers",
    "QueryLayersConfig",
    "SelfAttentionConcat",
    "frame_bytes",
    "pose_numbers",
]
