"""Published memories of keys and values, each as the parts that it is made of: one function per method.

    memory = memrope()
    stream = memory.stream(backbone, seeds=[1])

Each returns a `StreamMemory`: how chunks are generated, which frames they read, and what the cache is made of. Numbers
are those of the methods; what they do not state, or memkit does not have, is named in the docstring as our reading. All
are of models with chunks of 3 frames and 4 steps, as in `memkit.streaming.presets`; give another ``config`` for others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from memkit.backbones.wan import WanBackbone
from memkit.cameras.cameras import Cameras
from memkit.checks import check_whole, seed_list
from memkit.display import changed_fields, counted, described
from memkit.injectors.kv_cache.cache import frame_bytes
from memkit.injectors.kv_cache.parts import CacheParts
from memkit.injectors.kv_cache.places import OnCPU, OnDevice
from memkit.injectors.kv_cache.query_statistics import QueryStatistics
from memkit.injectors.kv_cache.reindex import Consecutive, RetrievedAtZero, SinkBeforeWindow
from memkit.injectors.kv_cache.scores.ages import Recent, Sink
from memkit.injectors.kv_cache.scores.attention import AttentionReceived
from memkit.injectors.kv_cache.scores.future import FutureAttention
from memkit.injectors.kv_cache.scores.latents import Embed, LatentSimilarity, pooled_latents
from memkit.injectors.kv_cache.scores.poses import PoseNearness
from memkit.injectors.kv_cache.scores.prompt import PromptMatch
from memkit.injectors.kv_cache.select import PooledQuery
from memkit.injectors.kv_cache.storage.base import Storage
from memkit.injectors.kv_cache.storage.nvfp4 import NVFP4
from memkit.injectors.kv_cache.storage.pooled import Pooled
from memkit.injectors.kv_cache.storage.pruned_chunks import PrunedChunks
from memkit.injectors.kv_cache.summary import EMASummary
from memkit.streaming.budget import latent_size
from memkit.streaming.config import StreamConfig
from memkit.streaming.presets import longlive as longlive_config
from memkit.streaming.presets import self_forcing
from memkit.streaming.read_best import ReadBest
from memkit.streaming.read_policies import Read, read_everything, read_local
from memkit.streaming.stream import Stream


@dataclass(frozen=True)
class StreamMemory:
    """How a stream remembers.

    Attributes:
        config: how chunks are generated.
        read: which cached frames a chunk reads.
        parts: what the cache is made of.
        frames: latent frames within the first budget of the cache, on the model's device.
    """

    config: StreamConfig
    read: Read
    parts: CacheParts
    frames: int

    def __repr__(self) -> str:
        return described(self, f"budget of {counted(self.frames, 'frame')}", changed_fields(self.config))

    def budget(self, backbone: WanBackbone, videos: int = 1, size: tuple[int, int] | None = None) -> int:
        """The first budget in bytes, for latents of this height and width (by default the backbone's)."""
        check_whole("videos", videos, 1)
        size, branches = size or latent_size(backbone), 1 if self.config.guidance_scale == 1 else 2
        each = [frame_bytes(model, *size, videos, storage=self.parts.storage) for model in backbone.transformers]
        return self.frames * branches * sum(each)

    def stream(self, backbone: WanBackbone, seeds: int | Sequence[int], size: tuple[int, int] | None = None) -> Stream:
        """A new stream with this memory, for one video per seed; one number is one seed."""
        seeds = seed_list("seeds", seeds)
        budget = self.budget(backbone, len(seeds), size)
        return Stream(backbone, seeds, budget, self.config, read=self.read, parts=self.parts, size=size)


def self_forcing_rolling(sink: int = 0) -> StreamMemory:
    """Self-Forcing (arXiv 2506.08009): 21 frames in all, of which the first ``sink`` stay."""
    config = replace(self_forcing(), sink=sink)
    return StreamMemory(config, read_local(21, sink), CacheParts(), 21 - config.chunk)


def longlive() -> StreamMemory:
    """LongLive 1 (arXiv 2509.22622): a window of 12 frames with a sink of 3; at a new prompt, the newest 12 frames are
    computed anew under it. That the sink is not (its option ``global_sink``) is our reading."""
    config = replace(longlive_config(), recache=True)
    return StreamMemory(config, read_local(12, 3), CacheParts(), 9)


def infinity_rope() -> StreamMemory:
    """Infinity-RoPE (arXiv 2511.20649): a window of 6 frames with a sink of 1, at consecutive positions. That the
    window has the chunk in it is our reading. Its flush at a prompt and its cuts are not here."""
    config = replace(self_forcing(), window=6, sink=1)
    return StreamMemory(config, read_local(6, 1), CacheParts(rotated=False, reindex=Consecutive(1)), 4)


def memrope(per_position: bool = False) -> StreamMemory:
    """MemRoPE: 12 frames at positions 0 to 11: a sink of 3, a long and a short moving average of all that was evicted
    (rates 0.01 and 0.1), the newest 4 and the chunk. ``per_position`` keeps one mean per position of a frame, without
    its adaptive rate."""
    parts = CacheParts(rotated=False, reindex=Consecutive(3), summary=EMASummary((0.01, 0.1), per_position))
    return StreamMemory(replace(self_forcing(), window=None, sink=3), read_everything, parts, 7)


def worldkv(
    cameras: Cameras,
    cpu_bytes: int,
    sink: int = 3,
    config: StreamConfig = self_forcing(),  # noqa: B008  # frozen
    storage: Storage = PrunedChunks(),  # noqa: B008  # frozen
) -> StreamMemory:
    """WorldKV: the newest 6 frames, and 18 retrieved by pose in chunks of 3 from memory of the CPU, which holds a chunk
    in the bytes of two frames: the first whole, and the half of the tokens of the others that is least like it.

    The sink, that frames are pruned when they leave the device, and the mean of the distances of a chunk instead of the
    distance of its mean pose, are our reading. ``Pruned(2 / 3)`` as ``storage`` prunes each frame by itself.
    """
    read = ReadBest(PoseNearness(cameras), 18, sink=sink, newest=6, unit=3)
    parts = CacheParts(spill=(OnCPU(cpu_bytes, storage),))
    return StreamMemory(replace(config, window=None, sink=sink), read, parts, sink + 6)


def longlive_rag(cpu_bytes: int, embed: Embed = pooled_latents) -> StreamMemory:
    """LongLive-RAG: 12 frames: a sink of 1, the 6 evicted frames that are most like the newest, not the last 5 that
    were evicted, all at position 0, the newest 2 and the chunk. Evicted frames are in memory of the CPU.

    Give its autoencoder as ``embed``; the default is our stand-in. That the chunk is one of the 12 is our reading.
    """
    read = ReadBest(LatentSimilarity(embed), 6, sink=1, newest=2, skip=5)
    parts = CacheParts(rotated=False, reindex=RetrievedAtZero(1, 2), spill=(OnCPU(cpu_bytes),))
    return StreamMemory(replace(self_forcing(), window=None, sink=1), read, parts, 4)


def memflow(sink: int = 3, bank: int = 3, local: int = 3, per_query: int | None = None) -> StreamMemory:
    """MemFlow: a bank of 3 frames whose keys match the prompt best. Frames compete for it when they leave the window of
    ``local`` frames; MemFlow adds one frame of 3 chunks. Sink, window, and this competition are our reading.

    With ``per_query`` = 3, each layer attends to the 3 of these frames that fit its queries best, as MemFlow does; that
    they are chosen among all of them is our reading, and why it is not the default."""
    config = replace(self_forcing(), window=None, sink=sink)
    keep = Sink(sink) + Recent(max(0, local - config.chunk)) + PromptMatch()
    select = None if per_query is None else PooledQuery(per_query)
    return StreamMemory(config, read_everything, CacheParts(keep=keep, select=select), sink + bank + local)


def deep_forcing(sink: int = 10) -> StreamMemory:
    """Deep Forcing (arXiv 2512.05081): 21 frames, of which 40 to 60 % are a sink right before the others, which are
    kept by the attention that they receive. It gives no code: sink, rate of fading and window are our reading."""
    config = replace(self_forcing(), window=None, sink=sink)
    parts = CacheParts(keep=AttentionReceived(0.5), rotated=False, reindex=SinkBeforeWindow(sink))
    return StreamMemory(config, read_everything, parts, 21 - config.chunk)


def triattention(statistics: QueryStatistics, sink: int = 3, frames: int = 6) -> StreamMemory:
    """TriAttention (arXiv 2604.04921): half of the 12 frames of a window: a sink of 3, the last chunk, and those of
    which later queries can be expected to attend to most, by ``statistics`` of the model.

    It keeps tokens per head and chooses every 10 frames; that these are frames, chosen at every chunk, and that 6
    frames are beside the chunk, is our reading."""
    config = replace(self_forcing(), window=None, sink=sink)
    parts = CacheParts(keep=Sink(sink) + FutureAttention(statistics), rotated=False)
    return StreamMemory(config, read_everything, parts, frames)


def longlive2(sink: int = 8) -> StreamMemory:
    """LongLive-2.0 (arXiv 2605.18739): chunks of 8 frames, a window of 32 with a sink of 8, in NVFP4. That the window
    has the chunk in it is our reading. Its sinks and rotary offsets of shots are not here."""
    config = replace(self_forcing(), chunk=8, window=None, sink=sink)
    return StreamMemory(config, read_local(32, sink), CacheParts(storage=NVFP4()), 24)


def relic_like(older_bytes: int, recent: int = 6, by: int = 4) -> StreamMemory:
    """In the manner of RELIC (arXiv 2512.04040), which gives no code: the newest frames whole, and older ones as means
    of ``by`` neighbouring tokens, on the device. Its poses and actions are not here. All of it is our inference."""
    parts = CacheParts(rotated=False, spill=(OnDevice(older_bytes, Pooled(by)),))
    return StreamMemory(replace(self_forcing(), window=None), read_everything, parts, recent)


MEMORY_PRESETS = {
    "self-forcing-rolling": self_forcing_rolling,
    "longlive": longlive,
    "infinity-rope": infinity_rope,
    "memrope": memrope,
    "worldkv": worldkv,
    "longlive-rag": longlive_rag,
    "memflow": memflow,
    "deep-forcing": deep_forcing,
    "triattention": triattention,
    "longlive-2": longlive2,
    "relic-like": relic_like,
}
