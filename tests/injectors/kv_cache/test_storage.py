"""What is stored of frames: how much is lost, and how many bytes it takes."""

import pytest
import torch

from memkit.backbones.rotary import rotate
from memkit.errors import InputError
from memkit.injectors import frame_bytes
from memkit.injectors.kv_cache import (
    NVFP4,
    BFloat16,
    CacheParts,
    Exact,
    Float8,
    Integers,
    OnCPU,
    Pooled,
    Pruned,
    PrunedChunks,
    SlotCache,
)
from memkit.injectors.kv_cache.storage import FrameLayout
from tests.helpers.random_wan import random_transformer

TOKENS, DIM = 70, 16  # more than one group of 64


def frames(dtype=torch.float32, tokens=TOKENS, heads=2):
    """Keys with outliers in one channel and values, [2, 3, tokens, heads, 16]."""
    k, v = torch.randn(2, 2, 3, tokens, heads, DIM, generator=torch.Generator().manual_seed(0)).unbind(0)
    k[..., 3] = 40 + 3 * k[..., 3]
    return k.to(dtype), v.to(dtype)


def back(storage, pair):
    return storage.decode(storage.encode(pair), FrameLayout.of(pair))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("tokens", [70, 64, 5])
def test_integers_are_within_half_a_step(bits, tokens):
    pair = frames(tokens=tokens)
    k, v = back(Integers(bits), pair)
    for got, x, dim in ((k, pair[0], 2), (v, pair[1], 4)):
        assert got.shape == x.shape and got.dtype == x.dtype
        step = (x.amax(dim, keepdim=True) - x.amin(dim, keepdim=True)) / (2**bits - 1)
        assert ((got - x).abs() <= step / 2 * 1.001 + 1e-6).all()
    groups = [pair[0][:, :, i : i + 64] for i in range(0, tokens, 64)]  # of keys, with a step of their own
    for i, x in enumerate(groups):
        step = (x.amax(2, keepdim=True) - x.amin(2, keepdim=True)) / (2**bits - 1)
        assert ((k[:, :, 64 * i : 64 * i + 64] - x).abs() <= step / 2 * 1.001 + 1e-6).all()


def test_bytes_are_those_of_the_methods():
    k, v = frames(torch.bfloat16, tokens=128, heads=1)
    v = v.repeat(1, 1, 1, 1, 4)  # 64 channels
    bits = {
        storage: [
            8 * sum(x.nbytes for x in part) / y.numel()
            for part, y in zip((s[: len(s) // 2], s[len(s) // 2 :]), (k, v), strict=True)
        ]
        for storage in (Exact(), BFloat16(), Integers(8), Integers(4))
        for s in [storage.encode((k, v))]
    }
    assert bits == {Exact(): [16, 16], BFloat16(): [16, 16], Integers(8): [8.5, 8.5], Integers(4): [4.5, 4.5]}
    model = random_transformer().to(torch.bfloat16)
    assert (
        frame_bytes(model, 4, 4, storage=Integers(8, group=4)) == frame_bytes(model, 4, 4) * (8 + 8 + 8 + 32 / 24) / 32
    )
    assert sum(x.nbytes for x in Pruned(0.25).encode((k, v))) * 4 == k.nbytes + v.nbytes


def test_numbers_that_integers_cannot_hold_are_refused():
    with pytest.raises(InputError, match="65504"):
        Integers(8).encode(tuple(1e5 * x for x in frames(torch.bfloat16)))
    slots = SlotCache(2**20, parts=CacheParts(storage=Integers(8)))
    small, large = (tuple(f * x.flatten(1, 2) for x in frames(torch.bfloat16)) for f in (1, 1e5))
    slots.update(range(3), [small, small])
    with pytest.raises(InputError, match="65504"):  # in the second layer, when the first is written
        slots.update(range(1, 4), [small, large])
    assert slots.positions == (0,)


def test_floats():
    pair = frames()
    for storage, error in ((BFloat16(), 2**-8), (Float8(), 2**-4)):
        for got, x in zip(back(storage, pair), pair, strict=True):
            tiny = x.abs().amax(2, keepdim=True) * 2**-9 / 448 * (error > 2**-8)  # below the smallest number of fp8
            assert got.dtype == x.dtype and ((got - x).abs() <= error * x.abs() + tiny).all()
    halves = frames(torch.bfloat16)
    assert all(torch.equal(a, b) for a, b in zip(back(BFloat16(), halves), halves, strict=True))


def test_pruned_frames_have_the_tokens_that_are_least_like_the_mean():
    k, v = frames()
    kept, values = back(Pruned(0.5), (k, v))
    small = back(Pruned(0.5, "norm"), (k, v))[0]
    assert kept.shape[2] == 35 and torch.equal(small.norm(dim=-1), k.norm(dim=-1).sort(2).values[:, :, :35])
    for b, f, h in ((0, 0, 0), (1, 2, 1)):
        mean = k[b, f, :, h].mean(0)
        cosine = torch.nn.functional.cosine_similarity(k[b, f, :, h], mean[None], dim=-1)
        best = cosine.argsort()[:35]
        assert torch.equal(kept[b, f, :, h], k[b, f, best, h]) and torch.equal(values[b, f, :, h], v[b, f, best, h])


@pytest.mark.parametrize("storage", [Integers(4), Float8(), NVFP4(), Pruned(0.5)])
def test_each_frame_is_stored_by_itself(storage):
    """Whatever the order, and whatever else is written: what is read is the frame after a way through its storage."""
    k, v = frames()
    slots = SlotCache(2**20, parts=CacheParts(storage=storage))
    for chosen in ([0, 2], [1], [2, 0]):
        slots.update(chosen, [tuple(x[:, chosen].flatten(1, 2) for x in (k, v))])
    for p in range(3):
        want = back(storage, (k[:, p : p + 1], v[:, p : p + 1]))
        assert all(torch.equal(a, b.flatten(1, 2)) for a, b in zip(slots.get(0, [p]), want, strict=True))
    assert slots.nbytes <= 2**20


def test_pooled_frames_are_means_that_count_as_often():
    k, v = frames(tokens=8)
    slots = SlotCache(2**20, parts=CacheParts(storage=Pooled(2), rotated=False))
    slots.update(range(3), [(k.flatten(1, 2), v.flatten(1, 2))])
    angle = torch.rand(1, 24, 1, DIM // 2, generator=torch.Generator().manual_seed(1)).repeat_interleave(2, -1)
    read = slots.layer(0).read([2, 0, 1], (angle.cos(), angle.sin()))
    mean = k[:, 2].unflatten(1, (4, 2)).mean(2)
    turn = angle[:, :8].unflatten(1, (4, 2))
    turn = torch.atan2(turn.sin().mean(2), turn.cos().mean(2))  # of the mean direction
    assert read.tokens == (4, 4, 4) and torch.allclose(read.log_weight, torch.tensor(2.0).log())
    torch.testing.assert_close(read.k[:, :4], rotate(mean, turn.cos(), turn.sin()))
    torch.testing.assert_close(read.v[:, :4], v[:, 2].unflatten(1, (4, 2)).mean(2))


def test_nvfp4_has_the_nearest_numbers_of_its_grid_in_four_and_a_half_bits():
    grid = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    grid = torch.cat([grid, -grid[1:]])
    k, v = frames()
    got, values = back(NVFP4(), (k, v))
    mean = k.mean(-1, keepdim=True)
    for found, x in ((got - mean, k - mean), (values, v)):
        most = x.abs().amax(-1, keepdim=True)  # 16 channels are one block, whose scale has 3 bits beside its exponent
        assert ((found - x).abs() <= 0.18 * most).all()
    scale = torch.tensor([0.5, 2.0])[:, None]  # both scales are exact: of the tensor 6·448, of the blocks powers of two
    x = torch.cat([scale * grid, 448 * torch.ones(2, 1)], 1).view(1, 1, 2, 1, 16)
    blocks = torch.cat([2.0 * grid, torch.zeros(1)]).expand(1, 1, 2, 1, 16).clone()
    blocks[..., 15] = 0.0
    blocks[0, 0, 1] *= 0.25
    whole = blocks * 448 / blocks.max() * 6  # the largest number of the tensor is 6·448, and its scale 1
    assert torch.equal(back(NVFP4(), (x, whole))[1], whole)
    between = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, 6, 0, 0, 0, 0, 0, 0, 0, -6]).view(1, 1, 1, 1, 16) * 448
    even = torch.tensor([0.0, 1, 1, 2, 2, 4, 4, 6]) * 448
    assert torch.equal(back(NVFP4(), (between, between))[1][0, 0, 0, 0, :8], even)
    bits = [8 * sum(part.nbytes for part in NVFP4().encode((k, v))[i:j]) / k.numel() for i, j in ((4, 6), (3, 4))]
    assert bits == [4.5, 32 / 16] and all(torch.equal(x, 0 * k) for x in back(NVFP4(), (0 * k, 0 * v)))


def test_chunks_keep_their_first_frame_and_what_is_least_like_it():
    """WorldKV's rule, in whichever slots; a chunk that moves to another place is stored as one that was written."""
    k, v = frames(tokens=12)
    kept, values = back(PrunedChunks(), (k, v))
    assert kept.shape == (2, 3, 8, 2, DIM)
    for b, h in ((0, 0), (1, 1)):
        mean, others = k[b, 0, :, h].mean(0), k[b, 1:, :, h].flatten(0, 1)
        best = torch.nn.functional.cosine_similarity(others, mean[None], dim=-1).argsort()[:12]
        for got, x in ((kept, k), (values, v)):
            want = torch.cat([x[b, 0, :, h], x[b, 1:, :, h].flatten(0, 1)[best]])
            assert torch.equal(got[b, :, :, h].flatten(0, 1), want)
    size = sum(x.nbytes for x in (k[:, :1], v[:, :1]))
    slots = SlotCache(3 * size, parts=CacheParts(spill=(OnCPU(6 * size, PrunedChunks()),)))
    for start in (0, 3, 6):
        slots.update(range(start, start + 3), [tuple(((1 + start) * x).flatten(1, 2) for x in (k, v))])
    for start in (0, 3):
        got = slots.get(0, [start + i for i in range(3)])[0]
        torch.testing.assert_close(got, ((1 + start) * kept).flatten(1, 2), rtol=0, atol=0)
    assert slots.place_bytes[1] == 9 * size * 2 // 3 and back(PrunedChunks(), (k[:, :1], v[:, :1]))[0].shape[2] == 8
    with pytest.raises(InputError, match="2 frames are stored in chunks of 3"):
        PrunedChunks().encode((k[:, :2], v[:, :2]))
