"""Scores of cached frames: which are kept, and which are read."""

from memkit.injectors.kv_cache.scores.ages import Newest, Recent, Sink
from memkit.injectors.kv_cache.scores.attention import AttentionReceived
from memkit.injectors.kv_cache.scores.base import Ranked, Score, Sum
from memkit.injectors.kv_cache.scores.future import FutureAttention
from memkit.injectors.kv_cache.scores.keys import KeyDifference, KeyNorm
from memkit.injectors.kv_cache.scores.latents import LatentSimilarity, pooled_latents
from memkit.injectors.kv_cache.scores.poses import PoseNearness
from memkit.injectors.kv_cache.scores.prompt import PromptMatch, text_keys

__all__ = [
    "AttentionReceived",
    "FutureAttention",
    "KeyDifference",
    "KeyNorm",
    "LatentSimilarity",
    "Newest",
    "PoseNearness",
    "PromptMatch",
    "Ranked",
    "Recent",
    "Score",
    "Sink",
    "Sum",
    "pooled_latents",
    "text_keys",
]
