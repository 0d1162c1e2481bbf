"""Injectors: ways to give a video model access to memory.

Each name is loaded from its file when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names as in the table below, for type checkers
    from memkit.injectors.attention_recorder import AttentionRecorder
    from memkit.injectors.block_layers import BlockLayer, BlockLayers
    from memkit.injectors.camera_encoder import CameraEncoder
    from memkit.injectors.control_branch import ControlBranch, ControlBranchConfig
    from memkit.injectors.delta_memory import DeltaMemory, DeltaMemoryConfig
    from memkit.injectors.frame_context import FrameContext, FrameContextConfig
    from memkit.injectors.frame_visibility import FrameVisibility, shifted_blocks, sliding_window
    from memkit.injectors.frequency_blend import FrequencyBlend
    from memkit.injectors.hidden_filters import filter_hidden_states
    from memkit.injectors.kv_cache import BudgetError, KVCache, frame_bytes, recovery_attention
    from memkit.injectors.query_layers import QueryLayers, QueryLayersConfig, attend_with
    from memkit.injectors.query_module import QueryModule, QueryModuleConfig
    from memkit.injectors.recurrent import RecurrentState
    from memkit.injectors.reference_attention import ReferenceAttention
    from memkit.injectors.routed_context import RoutedContext
    from memkit.injectors.self_attention import SelfAttentionConcat
    from memkit.injectors.state_space import StateSpaceConfig, StateSpaceMemory
    from memkit.injectors.teacher_forcing import TeacherForcing, stream_cameras
    from memkit.injectors.temporal_layer import TemporalLayer
    from memkit.injectors.text_regions import TextRegions

_FILES: dict[str, tuple[str, ...]] = {
    "attention_recorder": ("AttentionRecorder",),
    "block_layers": ("BlockLayer", "BlockLayers"),
    "camera_encoder": ("CameraEncoder",),
    "control_branch": ("ControlBranch", "ControlBranchConfig"),
    "delta_memory": ("DeltaMemory", "DeltaMemoryConfig"),
    "frame_context": ("FrameContext", "FrameContextConfig"),
    "frame_visibility": ("FrameVisibility", "shifted_blocks", "sliding_window"),
    "frequency_blend": ("FrequencyBlend",),
    "hidden_filters": ("filter_hidden_states",),
    "kv_cache": ("BudgetError", "KVCache", "frame_bytes", "recovery_attention"),
    "query_layers": ("QueryLayers", "QueryLayersConfig", "attend_with"),
    "query_module": ("QueryModule", "QueryModuleConfig"),
    "recurrent": ("RecurrentState",),
    "reference_attention": ("ReferenceAttention",),
    "routed_context": ("RoutedContext",),
    "self_attention": ("SelfAttentionConcat",),
    "state_space": ("StateSpaceConfig", "StateSpaceMemory"),
    "teacher_forcing": ("TeacherForcing", "stream_cameras"),
    "temporal_layer": ("TemporalLayer",),
    "text_regions": ("TextRegions",),
}

__all__ = [
    "AttentionRecorder",
    "BlockLayer",
    "BlockLayers",
    "BudgetError",
    "CameraEncoder",
    "ControlBranch",
    "ControlBranchConfig",
    "DeltaMemory",
    "DeltaMemoryConfig",
    "FrameContext",
    "FrameContextConfig",
    "FrameVisibility",
    "FrequencyBlend",
    "KVCache",
    "QueryLayers",
    "QueryLayersConfig",
    "QueryModule",
    "QueryModuleConfig",
    "RecurrentState",
    "ReferenceAttention",
    "RoutedContext",
    "SelfAttentionConcat",
    "StateSpaceConfig",
    "StateSpaceMemory",
    "TeacherForcing",
    "TemporalLayer",
    "TextRegions",
    "attend_with",
    "filter_hidden_states",
    "frame_bytes",
    "recovery_attention",
    "shifted_blocks",
    "sliding_window",
    "stream_cameras",
]


def __getattr__(name: str) -> Any:
    for file, names in _FILES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{file}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
