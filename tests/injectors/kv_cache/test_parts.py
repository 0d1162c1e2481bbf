"""The parts of a KVCache on a model: what promises to change nothing changes no bit, and the rest does what it says."""

import pytest
import torch

from memkit.errors import FileError, InputError
from memkit.injectors import AttentionRecorder, KVCache, frame_bytes
from memkit.injectors.kv_cache import (
    AttentionReceived,
    BFloat16,
    CacheParts,
    CacheWarning,
    Consecutive,
    EMASummary,
    Integers,
    KeyDifference,
    OnCPU,
    OnDisk,
    RetrievedAtZero,
    Sink,
    SinkBeforeWindow,
)
from memkit.positions import PMRoPE, PMRoPEConfig
from tests.helpers.backbones import BACKBONES
from tests.helpers.unchecked import build
from tests.injectors.kv_cache.common import TIGHT, latents, run, same_slots, stream

CHUNKS = [[0, 1], [2, 3], [4, 5], [6, 7]]
ALL = {"rotated": False, "reindex": Consecutive(sink=1)}


def cache_of(model, frames, **parts):
    return KVCache(frames * frame_bytes(model, 4, 4, 2), parts=CacheParts(**parts))


def streamed(model, cache, chunks=CHUNKS, **more):
    with cache.attach(model) as attached:
        return stream(model, attached, latents(sum(map(len, chunks))), chunks, **more)


@pytest.fixture
def places(model, tmp_path):
    size = frame_bytes(model, 4, 4, 2)
    return OnCPU(3 * size), OnDisk(4 * size, tmp_path)


def test_places_change_no_bit(model, places, tmp_path):
    small, large = cache_of(model, 2, spill=places), cache_of(model, 9)
    chunks = [*CHUNKS, [8, 9, 10]]
    assert torch.equal(streamed(model, small, chunks), streamed(model, large, chunks))
    small, large = small.branch(), large.branch()
    assert same_slots(small, large) and small.positions == tuple(range(2, 11)) and small.capacity == 9
    size = frame_bytes(model, 4, 4, 2)
    assert small.nbytes == 2 * size and small.place_bytes == (2 * size, 3 * size, 4 * size)
    assert [small.table.places()[p] for p in small.positions] == [2, 2, 2, 2, 1, 1, 1, 0, 0] and not [
        *tmp_path.iterdir()
    ]


def test_keys_before_rotation_give_the_same_to_the_bit(model):
    chunks = [[0, 1], [-3, 40], [4, 2000]]
    outs = [streamed(model, cache_of(model, 9, rotated=rotated), chunks) for rotated in (True, False)]
    assert torch.equal(*outs)
    bfloat = model.to(torch.bfloat16)
    keys = []
    for rotated in (True, False):
        cache = cache_of(bfloat, 9, rotated=rotated)
        with cache.attach(bfloat) as attached, torch.no_grad():
            for start in (0, 30):
                with attached.chunk([start, start + 1], write=True):
                    x = bfloat(latents(2).bfloat16(), torch.tensor([9.0, 9.0]), torch.ones(2, 6, 32).bfloat16())[0]
        keys.append(x)
    assert torch.equal(*keys)


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name, each in BACKBONES.items() if "kv_cache" not in each.refused])
def test_every_backbone_can_hold_keys_before_rotation(name):
    backbone, outs = BACKBONES[name], []
    model, half = backbone.make(), backbone.num_frames // 2
    for rotated in (True, False):
        with KVCache(10**7, parts=CacheParts(rotated=rotated)).attach(model) as attached:
            for frames in (slice(half), slice(half, 2 * half)):
                with attached.chunk(range(frames.start or 0, frames.stop), write=True):
                    outs.append(backbone.call(model, frames))
    assert torch.equal(outs[1], outs[3]) and torch.equal(outs[0], outs[2])


def test_positions_are_chosen_at_reading(model):
    plain = streamed(model, cache_of(model, 9))
    gaps = [[5, 6], [12, 13], [900, 901], [5000, 5001]]
    same = streamed(model, cache_of(model, 9, **ALL))
    assert torch.equal(same, plain)  # nothing is evicted, so true positions are consecutive from 0
    assert torch.equal(streamed(model, cache_of(model, 9, **ALL), gaps), plain)
    window = {"rotated": False, "reindex": SinkBeforeWindow(2)}
    moved = streamed(model, cache_of(model, 9, **window), [[0, 1], [40, 41]])
    torch.testing.assert_close(moved, streamed(model, cache_of(model, 9), [[0, 1], [2, 3]]), **TIGHT)


def test_each_rule_for_positions():
    place = SinkBeforeWindow(2).place([0, 1, 20, 21], 1, [22, 23])
    assert place == ((18, 19, 20, 21), (22,), (22, 23))
    assert SinkBeforeWindow(2).place([0, 1], 0, [9]) == ((7, 8), (), (9,))
    assert Consecutive(3).place([0, 1, 2, 30, 31], 2, [32, 33]) == ((0, 1, 2, 5, 6), (3, 4), (7, 8))
    assert Consecutive().place([9, 4], 0, [11, 10]) == ((1, 0), (), (3, 2))
    assert Consecutive(3).place([0], 2, [1]) == ((0,), (1, 2), (3,))
    rule = RetrievedAtZero(sink=1, local=2)
    assert rule.place([0, 5, 6, 30, 31], 0, [32, 33]) == ((0, 0, 0, 1, 2), (), (3, 4))


def test_a_summary_of_the_last_evicted_frame_is_that_frame(model):
    """With rate 1, frames of one chunk each, and one mean per position, a summary is one more cached frame."""
    chunks = [[i] for i in range(6)]
    with_summary = cache_of(model, 2, rotated=False, reindex=Consecutive(), summary=EMASummary((1.0,), True))
    longer = cache_of(model, 3, rotated=False, reindex=Consecutive())
    out, want = streamed(model, with_summary, chunks), streamed(model, longer, chunks)
    torch.testing.assert_close(out, want, **TIGHT)
    assert not torch.allclose(out, streamed(model, cache_of(model, 2, **ALL), chunks), rtol=1e-3)


@pytest.mark.parametrize("per_position", [False, True])
def test_averages_are_those_of_the_rule(per_position):
    parts = CacheParts(rotated=False, summary=EMASummary((0.25, 0.5), per_position))
    cache = KVCache(3 * 2 * 2 * 4 * 2 * 8 * 4, num_layers=1, parts=parts)
    kv, averages = {}, None
    for start in (0, 2, 4, 6):
        k, v = (torch.randn(2, 8, 2, 8, generator=torch.Generator().manual_seed(start + i)) for i in (0, 1))
        kv |= {start + i: (k[:, 4 * i : 4 * i + 4], v[:, 4 * i : 4 * i + 4]) for i in (0, 1)}
        for gone in [[kv[p] for p in cache.update(0, [start, start + 1], k, v)]]:
            for i in (0, 1) if gone else ():
                tokens = torch.stack([frame[i] for frame in gone], 1)
                mean = tokens.mean(1) if per_position else tokens.mean((1, 2))[:, None]
                averages = averages or [[None, None], [None, None]]
                for j, rate in enumerate((0.25, 0.5)):
                    old = averages[i][j]
                    averages[i][j] = mean if old is None else rate * mean + (1 - rate) * old
    held = cache.branch().averages[0]
    for own, want in zip(held, averages, strict=True):
        torch.testing.assert_close(own, torch.stack(want, 1), rtol=0, atol=1e-6)


def test_frames_are_coarser_in_further_places(model):
    size = frame_bytes(model, 4, 4, 2)
    mixed = cache_of(model, 2, spill=(OnCPU(6 * size, Integers(4)),))
    exact = cache_of(model, 9)
    streamed(model, exact, reads=[[], [], [], []])
    streamed(model, mixed, reads=[[], [], [], []])
    got, want = mixed.branch().get(1), exact.branch().get(1)
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a[:, -8:], b[:, -8:]) and not torch.equal(a[:, :-8], b[:, :-8])
        assert (a - b).abs().max() < 0.1 * b.abs().max()


def test_gradient_checkpointing_changes_nothing(model):
    """In a cache of keys before rotation, with a summary: neither what is written nor the gradients."""
    found = []
    for again in (False, True):
        cache = cache_of(model, 2, **ALL, summary=EMASummary((0.5,)))
        streamed(model, cache)
        (model.enable_gradient_checkpointing if again else model.disable_gradient_checkpointing)()
        model.train(again)
        with cache.attach(model) as attached, attached.chunk([8, 9], write=True):
            run(model, latents(2, seed=5)).square().mean().backward()
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None] + list(cache.branch().get(2)))
        model.zero_grad()
    assert len(found[0]) == len(found[1]) and all(torch.equal(a, b) for a, b in zip(*found, strict=True))


PARTS = {
    "coarse": {"storage": Integers(4), **ALL, "summary": EMASummary((0.3, 0.5))},
    "attention": {"keep": Sink(1) + AttentionReceived(), "storage": BFloat16()},
    "keys": {"keep": KeyDifference(), "rotated": False},
}


@pytest.mark.parametrize("name", PARTS)
def test_a_saved_session_of_parts_goes_on_to_the_bit(model, tmp_path, name):
    size = frame_bytes(model, 4, 4, 2)
    parts = CacheParts(**PARTS[name], spill=(OnCPU(2 * size, Integers(8)), OnDisk(size, tmp_path)))
    cache, more = KVCache(3 * size, parts=parts), [[10, 11], [12, 13]]
    streamed(model, cache, [[i, i + 1] for i in range(0, 24, 2)])
    cache.save(tmp_path / "session")
    again = KVCache.load(tmp_path / "session", parts=parts)
    assert same_slots(cache.branch(), again.branch())
    assert cache.branch().table.places() == again.branch().table.places()
    more = [[30, 31], [32, 33], [34, 35]]
    assert torch.equal(streamed(model, cache, more), streamed(model, again, more))
    assert same_slots(cache.branch(), again.branch())
    with pytest.raises(InputError, match="saved with a cache of other parts"):
        KVCache.load(tmp_path / "session")
    small = CacheParts(**PARTS[name], spill=(OnCPU(8, Integers(8)), OnDisk(size, tmp_path)))
    with pytest.raises(InputError, match="Place 1 has room for 0 frames"):
        KVCache.load(tmp_path / "session", parts=small)


def test_attention_received_is_what_a_recorder_records(model):
    cache = cache_of(model, 4, keep=AttentionReceived(decay=1.0))
    recorder = AttentionRecorder()
    with cache.attach(model) as attached, torch.no_grad():
        for positions in CHUNKS[:2]:
            with attached.chunk(positions, write=True):
                run(model, latents(2, seed=positions[0]))
        with attached.chunk([4, 5], recorder=recorder):
            run(model, latents(2, seed=4))
        before = [cache.branch().noted("attention", [p])[0] for p in range(4)]
        with attached.chunk([4, 5], write=True) as chunk:
            run(model, latents(2, seed=4))
    shares = recorder.shares().mean((0, 1, 2, 3))
    total = [0.0 if b is None else float(b.sum()) for b in before]
    received = torch.tensor(total) + shares
    assert chunk.evicted == tuple(sorted(received.argsort()[:2].tolist()))
    held = [p for p in range(4) if p not in chunk.evicted]
    noted = torch.stack([cache.branch().noted("attention", [p])[0].sum() for p in held])
    torch.testing.assert_close(noted, received[held], rtol=0, atol=1e-6)


def test_parts_that_do_not_go_together_are_refused(model):
    for wrong in ({"reindex": Consecutive()}, {"summary": EMASummary((0.5,))}, {"keep": 3}, {"spill": (3,)}):
        with pytest.raises(InputError):
            build(CacheParts, **vars(CacheParts()) | wrong)
    cameras = PMRoPE(PMRoPEConfig.of(model))
    with cache_of(model, 9, rotated=False).attach(model), pytest.raises(InputError, match="attached already"):
        cameras.attach(model)


def test_a_place_that_cannot_be_written_is_named_and_the_cache_is_still_usable(model, tmp_path):
    size = frame_bytes(model, 4, 4, 2)
    cache = cache_of(model, 4, spill=(OnDisk(2 * size, tmp_path / "later"),))
    with pytest.raises(FileError, match="Cannot write .*later"):
        streamed(model, cache)
    (tmp_path / "later").mkdir()
    assert torch.equal(streamed(model, cache), streamed(model, cache_of(model, 6)))


def test_frames_of_no_use_are_named(model):
    cache = cache_of(model, 9)
    with cache.attach(model) as attached, torch.no_grad():
        with pytest.warns(CacheWarning, match=r"keys of the frames \[7\].* layer 1 of the branch 'main'.*zero"):
            pairs = [tuple(torch.ones(2, 8, 2, 8) for _ in "kv") for _ in model.blocks]
            pairs[1][0][:, 4:] = 0
            cache.branch().update([6, 7], pairs)
        cache.reset()
        with pytest.warns(CacheWarning, match="3 chunks in a row.*branch 'main'.*`read`"):
            for positions in CHUNKS:
                with attached.chunk(positions, read=[], write=True):
                    run(model, latents(2))
