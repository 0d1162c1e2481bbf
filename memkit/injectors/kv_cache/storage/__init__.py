"""Storage of cached keys and values: exact, in fewer bits, or of fewer tokens."""

from memkit.injectors.kv_cache.storage.base import Exact, FrameLayout, Storage
from memkit.injectors.kv_cache.storage.floats import BFloat16, Float8
from memkit.injectors.kv_cache.storage.integers import Integers
from memkit.injectors.kv_cache.storage.nvfp4 import NVFP4
from memkit.injectors.kv_cache.storage.pooled import Pooled
from memkit.injectors.kv_cache.storage.pruned import Pruned
from memkit.injectors.kv_cache.storage.pruned_chunks import PrunedChunks

__all__ = [
    "NVFP4",
    "BFloat16",
    "Exact",
    "Float8",
    "FrameLayout",
    "Integers",
    "Pooled",
    "Pruned",
    "PrunedChunks",
    "Storage",
]
