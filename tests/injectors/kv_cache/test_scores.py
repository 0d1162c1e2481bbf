"""Scores of cached frames against their formulas, and how they add up."""

import pytest
import torch

from memkit.cameras import Cameras
from memkit.errors import InputError
from memkit.injectors.kv_cache import (
    CacheParts,
    KeyDifference,
    KeyNorm,
    LatentSimilarity,
    Newest,
    PoseNearness,
    PromptMatch,
    Recent,
    Sink,
    SlotCache,
    text_keys,
)
from tests.helpers.random_wan import random_transformer
from tests.helpers.streams import seeded


@pytest.fixture
def held():
    """5 frames of 3 tokens in 2 layers."""
    slots = SlotCache(2**20)
    slots.update(range(5), [(seeded(2, 15, 2, 8, seed=i), seeded(2, 15, 2, 8, seed=9 + i)) for i in range(2)])
    return slots


def keys(held, layer):
    return held.get(layer)[0].unflatten(1, (5, 3))  # [B, frames, tokens, H, D]


def test_ages_and_sums(held):
    inf = float("inf")
    assert Newest().checked(held, [3, 1], [9]) == [3, 1]
    assert (Sink(2) + Recent(1)).checked(held, [0, 1, 2, 3], [9]) == [inf, inf, 0, inf]
    assert (2 * Newest() + Sink(1)).checked(held, [0, 1, 4], [9]) == [inf, 2, 8]
    assert Newest().ranked().checked(held, [4, 0, 2], [9]) == [1, 0, 0.5]
    assert Sink(2).ranked().checked(held, [0, 1, 2], [9]) == [0.75, 0.75, 0]
    assert (0.5 * KeyNorm().ranked() + Newest().ranked()).needs == frozenset()


def test_keys(held):
    norms = sum(keys(held, i).norm(dim=-1).mean((0, 2, 3)) for i in range(2)) / 2
    torch.testing.assert_close(KeyNorm().score(held, range(5), [9]), -norms)
    torch.testing.assert_close(
        KeyNorm(layers=(1,)).score(held, [4, 0], [9]), -keys(held, 1).norm(dim=-1).mean((0, 2, 3))[[4, 0]]
    )
    with pytest.raises(InputError, match="no layer 7"):
        KeyNorm(layers=(7,)).score(held, [0], [9])
    k = keys(held, 0)
    units = k / k.norm(dim=-1, keepdim=True)
    mean = units.flatten(1, 2).mean(1)
    cosine = torch.einsum("bfthd,bhd->bfth", units, mean / mean.norm(dim=-1, keepdim=True)).mean((0, 2, 3))
    torch.testing.assert_close(KeyDifference(layers=(0,)).score(held, range(5), [9]), -cosine)


def test_a_repeated_frame_is_evicted_first():
    slots = SlotCache(5 * 2 * 3 * 2 * 8 * 4, parts=CacheParts(keep=KeyDifference()))
    k = seeded(1, 15, 2, 8)
    k[:, 3:6] = k[:, 9:12]  # frame 1 is frame 3
    slots.update(range(5), [(k, k)])
    assert slots.update([5], [(seeded(1, 3, 2, 8, seed=7),) * 2])[0] in (1, 3)


def test_poses_are_compared_as_worldkv_does(held):
    c2w = torch.eye(4).repeat(6, 1, 1)
    for i, angle in enumerate((0.0, 0.5, 1.0, 3.0, 0.0, 0.0)):
        c, s = torch.tensor(angle).cos(), torch.tensor(angle).sin()
        c2w[i, :3, :3] = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    c2w[:, 0, 3] = torch.tensor([4.0, 0, 1, 2, 0, 0])
    score = PoseNearness(Cameras(c2w, torch.full((6, 4), 0.5)))
    got = score.score(held, [0, 1, 2, 3], [4, 5])
    shift, angle = torch.tensor([16.0, 0, 1, 4]), torch.tensor([0.0, 0.5, 1.0, 3.0])
    torch.testing.assert_close(got.float(), -0.5 * shift / 16 - 0.5 * angle / 3, rtol=0, atol=1e-4)
    with pytest.raises(InputError, match=r"none of \[7\]"):
        score.score(held, [7], [4])
    by_hand = PoseNearness(score.cameras, lambda frames, chunk: frames.c2w[:, 0, 3] + len(chunk.c2w))
    assert by_hand.checked(held, [3, 0], [4, 5]) == [4, 6]


def test_notes_are_of_a_frame_and_go_with_it(held):
    held.note("x", [1, 2, 3], list(torch.arange(3)))
    held.drop([1])
    for replaced in ([1], [2]):
        held.update(replaced, [(seeded(2, 3, 2, 8),) * 2] * 2)
    assert [x if x is None else int(x) for x in held.noted("x", [0, 1, 2, 3])] == [None, None, None, 2]
    with pytest.raises(InputError, match="no frame at"):
        held.note("x", [9], [torch.zeros(1)])


def test_latents_are_compared_with_the_newest(held):
    score, x = LatentSimilarity(), seeded(2, 4, 5, 8, 8, seed=3)
    x[:, :, 1] = x[:, :, 4] * 1.1
    with pytest.raises(InputError, match="not noted"):
        score.score(held, [0, 1], [5])
    held.note("latents", range(5), score.describe(x)["latents"])
    got = score.score(held, [0, 1, 2], [5, 6])
    assert got[1] == pytest.approx(1) and got.argmax() == 1
    flat = torch.nn.functional.avg_pool2d(x.transpose(1, 2).flatten(0, 1), 2).unflatten(0, (2, 5))
    flat = (flat - flat.mean((3, 4), keepdim=True)).flatten(2)
    want = torch.nn.functional.cosine_similarity(flat[:, :3], flat[:, 4:], dim=-1).mean(0)
    torch.testing.assert_close(got, want)


def test_the_prompt_is_compared_with_the_keys_of_all_pairs():
    model, text = random_transformer(), seeded(2, 6, 32, seed=4)
    slots = SlotCache(2**20)
    heads, dim = model.config.num_attention_heads, model.config.attention_head_dim
    slots.update(range(4), [(seeded(2, 12, heads, dim, seed=i),) * 2 for i in range(len(model.blocks))])
    with pytest.raises(InputError, match="set branch.prompt"):
        PromptMatch().score(slots, [0, 1], [4])
    slots.prompt = text_keys(model, text)
    with torch.no_grad():
        attn = model.blocks[1].attn2
        k_text = attn.norm_k(attn.to_k(model.condition_embedder.text_embedder(text))).unflatten(2, (heads, dim))
    k = slots.get(1)[0].unflatten(1, (4, 3))
    want = torch.einsum("blhd,bfthd->bflth", k_text, k).mean((0, 2, 3, 4)) / dim**0.5
    torch.testing.assert_close(PromptMatch(layers=(1,)).score(slots, range(4), [4]), want)
