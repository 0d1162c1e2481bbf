"""Injectors: how memory reaches a model."""

from memkit.injectors.camera_encoder import CameraEncoder, relative_pose_vectors
from memkit.injectors.frame_context.context import FrameContext, FrameContextConfig
from memkit.injectors.kv_cache.cache import KVCache, frame_bytes
from memkit.injectors.kv_cache.monitor import CacheMonitor, recovery_attention
from memkit.injectors.kv_cache.slots import BudgetError
from memkit.injectors.monitor import AttentionMonitor
from memkit.injectors.query_layers.layers import QueryLayers, QueryLayersConfig
from memkit.injectors.query_layers.monitor import QueryMonitor, attend_with
from memkit.injectors.query_module.module import QueryModule, QueryModuleConfig
from memkit.injectors.self_attention import SelfAttentionConcat
from memkit.injectors.teacher_forcing.forcing import TeacherForcing, stream_cameras

__all__ = [
    "AttentionMonitor",
    "BudgetError",
    "CacheMonitor",
    "CameraEncoder",
    "FrameContext",
    "FrameContextConfig",
    "KVCache",
    "QueryLayers",
    "QueryLayersConfig",
    "QueryModule",
    "QueryModuleConfig",
    "QueryMonitor",
    "SelfAttentionConcat",
    "TeacherForcing",
    "attend_with",
    "frame_bytes",
    "relative_pose_vectors",
    "recovery_attention",
    "stream_cameras",
]
