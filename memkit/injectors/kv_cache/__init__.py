"""KV cache: chunk-by-chunk generation with the keys and values of earlier chunks."""

from memkit.injectors.kv_cache.attachment import AttachedCache
from memkit.injectors.kv_cache.cache import KVCache, frame_bytes
from memkit.injectors.kv_cache.layer import LayerCache
from memkit.injectors.kv_cache.notes import CacheWarning
from memkit.injectors.kv_cache.parts import CacheParts
from memkit.injectors.kv_cache.places import OnCPU, OnDevice, OnDisk, Place
from memkit.injectors.kv_cache.query_statistics import QueryStatistics
from memkit.injectors.kv_cache.recovery import RecoveryAttention, recovery_attention
from memkit.injectors.kv_cache.reindex import Consecutive, Reindex, RetrievedAtZero, SinkBeforeWindow, TruePositions
from memkit.injectors.kv_cache.scores import (
    AttentionReceived,
    FutureAttention,
    KeyDifference,
    KeyNorm,
    LatentSimilarity,
    Newest,
    PoseNearness,
    PromptMatch,
    Recent,
    Score,
    Sink,
    text_keys,
)
from memkit.injectors.kv_cache.select import PooledQuery, Select
from memkit.injectors.kv_cache.slots import SlotCache
from memkit.injectors.kv_cache.storage import (
    NVFP4,
    BFloat16,
    Exact,
    Float8,
    Integers,
    Pooled,
    Pruned,
    PrunedChunks,
    Storage,
)
from memkit.injectors.kv_cache.summary import EMASummary
from memkit.injectors.kv_cache.table import BudgetError

__all__ = [
    "NVFP4",
    "AttachedCache",
    "AttentionReceived",
    "BFloat16",
    "BudgetError",
    "CacheParts",
    "CacheWarning",
    "Consecutive",
    "EMASummary",
    "Exact",
    "Float8",
    "FutureAttention",
    "Integers",
    "KVCache",
    "KeyDifference",
    "KeyNorm",
    "LatentSimilarity",
    "LayerCache",
    "Newest",
    "OnCPU",
    "OnDevice",
    "OnDisk",
    "Place",
    "Pooled",
    "PooledQuery",
    "PoseNearness",
    "PromptMatch",
    "Pruned",
    "PrunedChunks",
    "QueryStatistics",
    "Recent",
    "RecoveryAttention",
    "Reindex",
    "RetrievedAtZero",
    "Score",
    "Select",
    "Sink",
    "SinkBeforeWindow",
    "SlotCache",
    "Storage",
    "TruePositions",
    "frame_bytes",
    "recovery_attention",
    "text_keys",
]
