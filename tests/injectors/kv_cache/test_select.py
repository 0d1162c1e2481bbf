"""What is chosen by queries: frames that each layer attends to, and frames that later queries can be expected to."""

import pytest
import torch

from memkit.backbones.rotary import rotate
from memkit.errors import FileError, InputError
from memkit.injectors import AttentionRecorder
from memkit.injectors.kv_cache import CacheParts, FutureAttention, KVCache, PooledQuery, QueryStatistics, SlotCache
from memkit.injectors.kv_cache import frame_bytes as bytes_of
from memkit.injectors.kv_cache.query_statistics import pairs
from memkit.injectors.kv_cache.scores.future import AHEAD
from tests.helpers.random_wan import random_transformer
from tests.helpers.streams import seeded
from tests.injectors.kv_cache.common import latents, run, stream


def read(model, select, rotated=True, frames=None, recorder=None):
    """A chunk that reads 6 frames, which were written one after the other."""
    cache = KVCache(12 * bytes_of(model, 4, 4, 1), parts=CacheParts(rotated=rotated, select=select))
    with cache.attach(model) as attached, torch.no_grad():
        stream(model, attached, latents(6, 1), [[i] for i in range(6)], reads=[[]] * 6)
        with attached.chunk([6, 7], read=frames, recorder=recorder):
            return run(model, latents(2, 1, seed=5))


@pytest.mark.parametrize("rotated", [True, False])
def test_a_layer_attends_to_the_frames_that_its_mean_query_fits(rotated):
    """To all of them, no bit changes; to fewer, it is as if those alone were read."""
    model, chosen = random_transformer(num_layers=1), []

    class Noted(PooledQuery):
        def choose(self, q, means):
            chosen.append(sorted((out := super().choose(q, means))[0].tolist()))
            return out

    dense, few = read(model, None, rotated), read(model, Noted(2), rotated)
    assert torch.equal(read(model, PooledQuery(6), rotated), dense)
    assert len(chosen) == 1 and len(chosen[0]) == 2 and not torch.allclose(few, dense, atol=1e-4)
    assert torch.equal(read(model, None, rotated, frames=chosen[0]), few)
    with pytest.raises(InputError, match="not of a selection"):
        read(model, PooledQuery(2), rotated, recorder=AttentionRecorder())


def test_the_mean_query_chooses_by_its_product_with_mean_keys():
    q, k, v = seeded(2, 5, 2, 8), seeded(2, 12, 2, 8, seed=1), seeded(2, 12, 2, 8, seed=2)
    weight = seeded(2, 12, seed=3)
    got = PooledQuery(2).apply(q, k, v, weight, (3,) * 4)
    for b in range(2):
        fits = [float(sum((q[b, i] * k[b, 3 * f + j]).sum() for i in range(5) for j in range(3))) for f in range(4)]
        best = sorted(sorted(range(4), key=lambda f: -fits[f])[:2])
        rows = [3 * f + j for f in best for j in range(3)]
        assert all(torch.equal(x[b], y[b, rows]) for x, y in zip(got[:3], (k, v, weight), strict=True))
    assert got[3] == (3, 3)
    with pytest.raises(InputError, match="one number of tokens"):
        PooledQuery(2).apply(q, k, v, weight, (5, 7))


@pytest.fixture
def statistics(model):
    it = QueryStatistics()
    with torch.no_grad(), it.collect(model):
        run(model, latents(3))
    return it


def test_statistics_are_means_of_queries_before_rotation(model, statistics, tmp_path):
    found = []
    hook = model.blocks[1].attn1.norm_q.register_forward_hook(lambda _, args, out: found.append(out))
    run(model, latents(3))
    hook.remove()
    q = torch.view_as_complex(found[0].unflatten(2, (2, 12, 2)).contiguous())
    torch.testing.assert_close(statistics.mean[1], q.mean((0, 1)))
    torch.testing.assert_close(statistics.size[1], q.abs().mean((0, 1)))
    with torch.no_grad(), statistics.collect(model):
        run(model, latents(3))
    torch.testing.assert_close(statistics.mean[1], q.mean((0, 1)))
    statistics.save(file := tmp_path / "queries.safetensors")
    again = QueryStatistics.load(file)
    assert torch.equal(again.mean, statistics.mean) and torch.equal(again.omega, statistics.omega)
    assert again.count == 2 * 2 * 12
    file.write_bytes(file.read_bytes()[:-1] + b"\x77")
    with pytest.raises(FileError):
        QueryStatistics.load(file)


def test_expected_attention_is_that_to_a_query_at_the_places_to_come(model, statistics):
    """Where all queries are alike, it is their logits by the model's own rotation, averaged over what lies ahead."""
    statistics.absolute = statistics.total.abs()
    slots = SlotCache(2**20, parts=CacheParts(rotated=False))
    slots.update(range(4), [(seeded(2, 16, 2, 24, seed=i), seeded(2, 16, 2, 24)) for i in range(3)])
    got, logits = FutureAttention(statistics).score(slots, range(4), [4, 5, 6]), []
    turn = [
        torch.tensor([statistics.omega.tolist()]).repeat_interleave(2, -1)[None, :, None].expand(1, 4, 1, 24) * t
        for t in range(200)
    ]
    for layer in range(3):
        k, q = slots.get(layer)[0].unflatten(1, (4, 4)), torch.view_as_real(statistics.mean[layer]).flatten(1)
        rows = torch.zeros(2, 4, 4, 2)
        for ahead in AHEAD:
            there = rotate(q.expand(1, 4, 2, 24), turn[6 + ahead].cos(), turn[6 + ahead].sin())
            for f in range(4):
                rows[:, f] += (rotate(k[:, f], turn[f].cos(), turn[f].sin()) * there).sum(-1) / len(AHEAD)
        rows -= rows.mean((1, 2), keepdim=True)
        logits.append((rows / rows.std((1, 2), correction=0, keepdim=True)).mean((0, 2, 3)))
    torch.testing.assert_close(got, torch.stack(logits).mean(0), rtol=1e-4, atol=1e-5)
    bands = model.rope.t_dim // 2
    assert (statistics.omega[:bands] > 0).all() and not statistics.omega[bands:].any()
    assert pairs(torch.tensor([1.0, 2.0])) == torch.tensor([1 + 2j])
    with pytest.raises(InputError, match="before rotation"):
        FutureAttention(statistics).score(SlotCache(2**20), [0], [1])
