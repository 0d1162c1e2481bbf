"""Backbones: the video models that memory is attached to, and the protocol by which injectors know them."""

from memkit.backbones.adapters import ADAPTERS, WanAdapter, adapter_of
from memkit.backbones.attached import Attached
from memkit.backbones.base import (
    CAMERA_POSITIONS,
    FRAME_CONTEXT,
    KV_CACHE,
    MEMORY_TOKENS,
    QUERY_LAYERS,
    TEACHER_FORCING,
    TEXT,
    VIDEO,
    Carrier,
    Grouping,
    Groups,
    Injection,
    Positioning,
    Table,
)
from memkit.backbones.codec import WanCodec
from memkit.backbones.presets import PRESETS, VideoFormat, WanPreset
from memkit.backbones.protocol import BackboneAdapter, Call, Grid, Sizes
from memkit.backbones.unwrap import Attachable, transformers_of
from memkit.backbones.wan import WanBackbone

__all__ = [
    "ADAPTERS",
    "CAMERA_POSITIONS",
    "FRAME_CONTEXT",
    "KV_CACHE",
    "MEMORY_TOKENS",
    "PRESETS",
    "QUERY_LAYERS",
    "TEACHER_FORCING",
    "TEXT",
    "VIDEO",
    "Attachable",
    "Attached",
    "BackboneAdapter",
    "Call",
    "Carrier",
    "Grid",
    "Grouping",
    "Groups",
    "Injection",
    "Positioning",
    "Sizes",
    "Table",
    "VideoFormat",
    "WanAdapter",
    "WanBackbone",
    "WanCodec",
    "WanPreset",
    "adapter_of",
    "transformers_of",
]
