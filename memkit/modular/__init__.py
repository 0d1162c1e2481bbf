"""Blocks for diffusers' modular pipelines: memory retrieval and injection, and cached streaming."""

from memkit.modular.memory import (
    AutoMemoryEncoder,
    RetrieveMemoryStep,
    ShowMemory,
    Wan22MemoryBlocks,
    Wan22MemoryDenoiseStep,
    WanMemoryBlocks,
    WanMemoryDenoiseStep,
)
from memkit.modular.saving import MemkitBlocks
from memkit.modular.streaming import WanStreamBlocks, WanStreamDenoiseStep

__all__ = [
    "AutoMemoryEncoder",
    "MemkitBlocks",
    "RetrieveMemoryStep",
    "ShowMemory",
    "Wan22MemoryBlocks",
    "Wan22MemoryDenoiseStep",
    "WanMemoryBlocks",
    "WanMemoryDenoiseStep",
    "WanStreamBlocks",
    "WanStreamDenoiseStep",
]
