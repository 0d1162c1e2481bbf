"""How cached keys lie in memory: head by head, so that attention reads them fast, and beside those of the chunk."""

import pytest
import torch

from memkit.attention import joined
from memkit.backbones.attention_processor import GroupedSelfAttention
from memkit.injectors import KVCache
from memkit.injectors.kv_cache import BFloat16, CacheParts, frame_bytes
from tests.injectors.kv_cache.common import fill, latents, new_cache, run


@pytest.fixture
def in_slots(monkeypatch):
    """Whether all attention calls since the last question read keys and values in the slots of a cache."""
    found, attend = [], GroupedSelfAttention._attend

    def watched(self, q, k, v, mask):
        found.append([x.untyped_storage().data_ptr() for x in (k, v)])
        return attend(self, q, k, v, mask)

    monkeypatch.setattr(GroupedSelfAttention, "_attend", watched)

    def all_of(cache):
        held = [[x.untyped_storage().data_ptr() for x in cache.branch().get(i)] for i in range(cache.branch().layers)]
        calls, found[:] = list(found), []
        return calls == held

    return all_of


@pytest.mark.parametrize("batch", [1, 2])
def test_a_chunk_attends_to_slots_with_room_behind_them_without_a_copy_and_to_others_bit_for_bit(
    model, in_slots, batch
):
    roomy, full = new_cache(model, 6, batch), new_cache(model, 3, batch)
    outs, x = [], latents(6, batch)
    for cache in (roomy, full):
        with cache.attach(model) as attached, torch.no_grad():
            with attached.chunk([0, 1, 2], write=True):
                run(model, x[:, :, :3])
            held = [y.clone() for y in cache.branch().get(1)]
            in_slots(cache)
            with attached.chunk([3, 4, 5]):
                outs.append(run(model, x[:, :, 3:]))
            assert in_slots(cache) == (cache is roomy)
            with attached.chunk([3, 4, 5], read=[0, 2]):  # not next to each other
                run(model, x[:, :, 3:])
            assert not in_slots(cache)
            with torch.enable_grad(), attached.chunk([3, 4, 5]):  # where slots must not be written
                outs.append(run(model, x[:, :, 3:]))
            assert not in_slots(cache)
        assert cache.branch().positions == (0, 1, 2) and not cache.branch().get(1)[0].requires_grad
        assert all(torch.equal(a, b) for a, b in zip(held, cache.branch().get(1), strict=True))
    assert all(torch.equal(outs[0], out) for out in outs[1:])


def test_frames_that_are_held_behind_those_read_are_left_alone(model, in_slots):
    cache = new_cache(model, 6)
    with cache.attach(model) as attached, torch.no_grad():
        fill(model, attached)
        cache.branch().drop([1])
        held = [x.clone() for x in cache.branch().get(0, [2])]
        with attached.chunk([3, 4], read=[0]):
            run(model, latents(2))
        assert not in_slots(cache)
    assert all(torch.equal(a, b) for a, b in zip(held, cache.branch().get(0, [2]), strict=True))


def test_slots_hold_the_tokens_of_a_head_next_to_each_other(model):
    for parts in (CacheParts(), CacheParts(storage=BFloat16())):
        cache = KVCache(3 * frame_bytes(model, 4, 4, 2), parts=parts)
        with cache.attach(model) as attached:
            fill(model, attached)
        for positions in ([0, 1, 2], [0, 2]):  # a view, and a copy
            assert all(x.stride(1) == x.shape[3] for x in cache.branch().get(0, positions))


def test_parts_that_follow_each_other_are_joined_without_a_copy_only_where_that_is_their_content():
    whole = torch.randn(2, 3, 9, 4).transpose(1, 2)
    parts = whole.split([2, 4, 3], dim=1)
    assert torch.equal(joined(parts), whole) and joined(parts).data_ptr() == whole.data_ptr()
    for others in ([parts[1], parts[0]], [parts[0], parts[2]], [parts[0], parts[0]], [whole[:1], whole[1:]]):
        result = joined(others)
        assert torch.equal(result, torch.cat(list(others), 1)) and result.data_ptr() != others[0].data_ptr()
    leaf = whole.clone().requires_grad_()
    joined(leaf.split([4, 5], dim=1)).sum().backward()
    assert torch.equal(leaf.grad, torch.ones_like(leaf))
