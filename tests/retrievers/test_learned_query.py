"""LearnedQuery: shares of attention on frames, ranked."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memkit.errors import InputError
from memkit.injectors import QueryLayers, QueryLayersConfig, attend_with
from memkit.retrievers import Hits, LearnedQuery
from memkit.testing import check_retriever
from tests.helpers.random_wan import random_transformer

CLIPS = 6
frames = st.lists(st.tuples(st.integers(0, CLIPS - 1), st.floats(0, 1, width=32)), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None)
@given(
    stored=frames,
    k=st.integers(1, CLIPS + 2),
    exclude=st.sets(st.integers(0, CLIPS)),
    sources=st.sets(st.integers(0, 2)),
    least=st.none() | st.floats(0, 2),
)
def test_clips_are_ranked_by_the_sum_over_their_frames(stored, k, exclude, sources, least):
    clips, shares = zip(*stored, strict=True)
    ids, films = [f"clip{c}" for c in clips], [f"film{c % 2}" for c in clips]
    retriever = LearnedQuery(torch.tensor, ids, films)
    expected = {}
    for id, share in zip(ids, shares, strict=True):
        expected[id] = expected.get(id, 0.0) + share
    left = {id: s for id, s in expected.items() if int(id[4:]) not in exclude and int(id[4:]) % 2 not in sources}
    left = sorted(left.items(), key=lambda item: -item[1])[:k]  # a stable sort: equal ones as they came
    left = [(id, score) for id, score in left if least is None or score >= least]
    hits = retriever(
        np.array(shares, np.float64),
        k,
        exclude={f"clip{c}" for c in exclude},
        exclude_sources={f"film{s}" for s in sources},
        min_score=least,
    )
    assert hits == Hits([id for id, _ in left], [score for _, score in left])


def test_it_has_the_properties_of_a_retriever():
    ids = [f"clip{i // 2}" for i in range(12)]
    sources = [f"film{i // 6}" for i in range(12)]
    queries = [torch.rand(12, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    retriever = LearnedQuery(lambda query: query, ids, sources)
    check_retriever(retriever, [*queries, torch.ones(12)], sources=dict(zip(ids, sources, strict=True)))


def test_each_query_of_a_list_is_asked_by_itself():
    asked = []

    def attend(word: str) -> torch.Tensor:
        asked.append(word)
        return torch.tensor([len(word), 2.0, 0.0], dtype=torch.bfloat16, requires_grad=True)

    retriever = LearnedQuery(attend, ["a", "b", "a"])
    assert retriever(["abc", "d"], 1, exclude=[["a"], []]) == [Hits(["b"], [2.0]), Hits(["b"], [2.0])]
    assert retriever("abc") == Hits(["a", "b"], [3.0, 2.0]) and asked == ["abc", "d", "abc"]

    ids = [f"frame{i}" for i in range(40)]
    ties = LearnedQuery(lambda _: torch.tensor([1.0, 2.0] * 20), ids)
    assert ties("any", 40).ids == ids[1::2] + ids[::2]


def test_what_the_query_layers_attend_to():
    """The two sides together, on a model made to look for one frame: Q's keys and the frame's agree by design."""
    model, query = random_transformer(), QueryLayers(QueryLayersConfig(dim=48, blocks=3, layers=1))
    torch.manual_seed(2)
    latents, text = torch.randn(1, 16, 2, 4, 4), torch.randn(1, 5, 32)
    past, t = torch.randn(1, 16, 4, 4, 4), torch.tensor([500.0])
    wanted = 2
    with torch.no_grad():
        # Frame 2 gets a pose of its own, which the camera encoder turns into 40 times what Q's tokens turn into.
        encoder, own = query.cameras["exact"].layers[0], torch.randn(48)
        encoder.weight[:, 0] = 40 * own
        attn = model.blocks[0].attn1
        attn.to_k.weight.copy_(attn.to_q.weight)
        attn.to_k.bias.copy_(attn.to_q.bias)
    poses, past_poses = torch.zeros(1, 2, 12), torch.zeros(1, 4, 12)
    poses[..., 0], past_poses[:, wanted, 0] = 1.0, 1.0
    with query.attach(model) as attached:

        def attend(p: torch.Tensor) -> torch.Tensor:
            given = {"context": past, "cameras": poses, "context_cameras": past_poses}
            return attend_with(attached, model, p, t, text, **given)[0]

        retriever = LearnedQuery(attend, [f"frame{i}" for i in range(4)])
        hits, without = retriever(latents, 4), retriever(latents, 4, exclude=["frame2"])
    assert hits.ids[0] == "frame2" and hits.scores[0] > 2 * hits.scores[1] and sum(hits.scores) < 1
    assert without.ids == hits.ids[1:] and without.scores == hits.scores[1:]


def test_what_does_not_fit_is_named():
    with pytest.raises(InputError, match="one string"):
        LearnedQuery(torch.tensor, "abc")
    with pytest.raises(InputError, match="2 ids and 1 sources"):
        LearnedQuery(torch.tensor, ["a", "b"], ["film"])
    with pytest.raises(InputError, match="'a' have the sources 'x' and None"):
        LearnedQuery(torch.tensor, ["a", "b", "a"], ["x", None, None])
    for bad, match in (
        ([0.1], r"\(1,\) for 2 frames"),
        ([0.1, -0.5], "frame 1 the share -0.5"),
        ([float("nan"), 0], "nan"),
    ):
        with pytest.raises(InputError, match=match):
            LearnedQuery(torch.tensor, ["a", "b"])(np.array(bad))
    assert LearnedQuery(torch.tensor, [])(np.zeros(0)) == Hits([], [])
