"""Memories of published methods as parts: what each reads and holds past its window, and that a saved one goes on."""

from dataclasses import dataclass, replace

import pytest
import torch

from memkit.cameras import Cameras
from memkit.errors import InputError
from memkit.injectors import frame_bytes
from memkit.injectors.kv_cache import CacheParts, LatentSimilarity, OnCPU, QueryStatistics, Score, SlotCache
from memkit.streaming import MEMORY_PRESETS, ReadBest, Stream, StreamConfig, read_everything
from tests.helpers.attachables import call
from tests.helpers.differ import differ
from tests.helpers.streams import PROMPTS, cameras

SIZE = (4, 4)
CHUNKS = 10
SINK = {
    "longlive": 3,
    "infinity-rope": 1,
    "memrope": 3,
    "worldkv": 3,
    "longlive-rag": 1,
    "memflow": 3,
    "deep-forcing": 10,
    "triattention": 3,
    "longlive-2": 8,
}
READ = {"self-forcing-rolling": 18, "longlive": 9, "infinity-rope": 3, "memrope": 7, "worldkv": 27, "longlive-rag": 9}
READ |= {"memflow": 9, "deep-forcing": 18, "triattention": 6, "longlive-2": 24, "relic-like": 30}
"""Cached frames that a chunk reads in the long run, without summary frames."""


def made(name, backbone):
    size, path = frame_bytes(backbone.transformer, 4, 4, 2), cameras(60)
    path = Cameras(path.c2w[0], path.intrinsics[0])
    statistics = QueryStatistics()
    if name == "triattention":
        with torch.no_grad(), statistics.collect(backbone):
            call(backbone.transformer)
    needs = {
        "triattention": (statistics,),
        "worldkv": (path, 40 * size),
        "longlive-rag": (40 * size,),
        "relic-like": (6 * size,),
    }
    memory = MEMORY_PRESETS[name](*needs.get(name, ()))
    return replace(memory, config=replace(memory.config, timesteps=(1000,), chunk=3))


@pytest.fixture(scope="module")
def everything(backbone):
    """The chunk after `CHUNKS` chunks of a stream that reads all of them."""
    config = replace(MEMORY_PRESETS["self-forcing-rolling"]().config, timesteps=(1000,), window=None)
    stream = Stream(backbone, [1, 2], 2**30, config, read=read_everything, size=SIZE)
    return [stream.generate(PROMPTS) for _ in range(CHUNKS + 1)][-1]


@pytest.mark.parametrize("name", MEMORY_PRESETS)
def test_a_memory_reads_what_its_method_reads_and_a_saved_one_goes_on(backbone, everything, tmp_path, name):
    memory = made(name, backbone)
    stream = memory.stream(backbone, [1, 2], SIZE)
    for _ in range(CHUNKS):
        stream.generate(PROMPTS)
    held, chunk = stream.cache.branch(), range(stream.position, stream.position + 3)
    read = stream.read(held, chunk)
    assert len(read) == READ[name] and set(range(SINK.get(name, 0))) <= set(read) and chunk.start - 1 in read
    assert held.nbytes <= memory.budget(backbone, 2, SIZE) and set(read) <= set(held.positions)
    stream.save(tmp_path)
    prompts = PROMPTS[::-1] if name in ("longlive", "memflow") else PROMPTS
    again = Stream.load(tmp_path, backbone, read=memory.read, parts=memory.parts)
    want = [stream.generate(prompts) for _ in range(2)]
    assert all(torch.equal(again.generate(prompts), x) for x in want)
    assert differ(everything, want[0], rtol=1e-3)


def test_at_a_new_prompt_the_window_is_computed_anew(backbone):
    """As if the frames of the window were given, under the new prompt, beside the sink."""
    memory = made("longlive", backbone)
    it, by_hand = (memory.stream(backbone, [1, 2], SIZE) for _ in "ab")
    latents = torch.cat([it.generate(PROMPTS) for _ in range(6)], 2)
    new = it.generate(PROMPTS[::-1])
    by_hand.config = replace(by_hand.config, recache=False)
    by_hand._recent = None
    kept = [by_hand.generate(PROMPTS) for _ in range(6)]
    branch = by_hand.cache.branch()
    stale = by_hand.generate(PROMPTS[::-1])
    branch.drop(branch.positions[3:])
    by_hand.position = 6
    for start in (6, 9, 12, 15):
        by_hand.generate(PROMPTS[::-1], conditioning_latents=latents[:, :, start : start + 3])
    assert torch.equal(by_hand.generate(PROMPTS[::-1]), new)
    assert torch.equal(torch.cat(kept, 2), latents) and differ(stale, new, rtol=1e-4)
    with pytest.raises(InputError, match="no window"):
        StreamConfig(recache=True)


def test_at_a_new_prompt_the_sink_stays_as_it_was(backbone):
    it = made("longlive", backbone).stream(backbone, [1, 2], SIZE)
    for _ in range(2):
        it.generate(PROMPTS)
    before = [x.clone() for x in it.cache.branch().get(1)]
    it.generate(PROMPTS[::-1])
    for old, new in zip(before, it.cache.branch().get(1), strict=True):
        assert torch.equal(old[:, :12], new[:, :12]) and differ(old[:, 12:24], new[:, 12:24], rtol=1e-5)


@dataclass(frozen=True)
class Given(Score):
    """Scores by position."""

    values: tuple[float, ...]

    def score(self, held, positions, chunk):
        return torch.tensor([self.values[p] for p in positions])


def test_the_best_are_read_beside_the_first_and_the_newest():
    held = SlotCache(10**6)
    held.update(range(12), [(torch.ones(1, 12, 1, 1),) * 2])
    score = Given((9, 8, 1, 7, 2, 6, 3, 5, 4, 9, 0, 0))
    assert ReadBest(score, 2, sink=1, newest=2)(held, [12, 13]) == (0, 1, 9, 10, 11)
    assert ReadBest(score, 2, sink=1, newest=2, skip=3)(held, [12, 13]) == (0, 1, 3, 10, 11)
    assert ReadBest(score, 4, newest=0, unit=3)(held, [12]) == (0, 1, 2)
    assert ReadBest(score, 6, newest=0, unit=3)(held, [12]) == (0, 1, 2, 3, 4, 5)
    assert ReadBest(score, 99)(held, [7]) == tuple(range(7)) and ReadBest(score, 0, newest=1)(held, [7]) == (6,)
    held.pin([4])
    assert ReadBest(score, 1, newest=1)(held, [12]) == (4, 9, 11)


def test_latents_are_noted_by_a_stream(backbone):
    size = frame_bytes(backbone.transformer, 4, 4, 2)
    config = StreamConfig(chunk=2, steps=1, guidance_scale=2.0)
    parts, read = CacheParts(spill=(OnCPU(2 * 40 * size),)), ReadBest(LatentSimilarity(), 2, newest=2)
    it = Stream(backbone, [1, 2], 2 * 4 * size, config, read=read, parts=parts, size=SIZE)
    given = torch.randn(2, 16, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    given[:, :, 6:8] = given[:, :, 2:4]
    for start in range(0, 8, 2):
        it.generate(PROMPTS, conditioning_latents=given[:, :, start : start + 2])
    for name in it.cache.branches:
        assert 3 in read(it.cache.branch(name), [8, 9])
