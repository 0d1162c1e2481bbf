"""KV cache: chunk-by-chunk generation with the keys and values of earlier chunks."""

from memkit.injectors.kv_cache.attachment import AttachedCache
from memkit.injectors.kv_cache.cache import KVCache, frame_bytes
from memkit.injectors.kv_cache.layer import LayerCache
from memkit.injectors.kv_cache.recovery import RecoveryAttention, recovery_attention
from memkit.injectors.kv_cache.slots import SlotCache
from memkit.injectors.kv_cache.table import BudgetError

__all__ = [
    "AttachedCache",
    "BudgetError",
    "KVCache",
    "LayerCache",
    "RecoveryAttention",
    "SlotCache",
    "frame_bytes",
    "recovery_attention",
]
