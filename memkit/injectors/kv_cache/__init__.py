"""KV cache: chunk-by-chunk generation that sees the keys and values of earlier chunks."""

from memkit.injectors.kv_cache.cache import KVCache, frame_bytes
from memkit.injectors.kv_cache.monitor import CacheMonitor, recovery_attention
from memkit.injectors.kv_cache.slots import BudgetError, SlotCache

__all__ = ["BudgetError", "CacheMonitor", "KVCache", "SlotCache", "frame_bytes", "recovery_attention"]
