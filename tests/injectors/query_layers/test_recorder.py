"""AttentionRecorder and attend_with against dense softmaxes."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
import torch
from hypothesis import given as vary
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor, nn

from memkit.backbones.base import Table
from memkit.errors import InputError, MemkitError
from memkit.injectors import AttentionRecorder, QueryLayers, QueryLayersConfig, SelfAttentionConcat, attend_with
from memkit.injectors.attention_shares import frame_shares
from memkit.memory import Memory
from tests.helpers.differ import differ
from tests.helpers.random_wan import random_transformer
from tests.injectors.query_layers.common import CONFIG, dense

FRAMES, PAST, TOKENS_PER_FRAME = 2, 3, 4


@pytest.fixture(scope="module")
def model():
    return random_transformer()


@pytest.fixture(scope="module")
def x() -> dict[str, Tensor]:
    torch.manual_seed(1)
    shape = (2, 16, FRAMES, 4, 4)
    return {
        "p": torch.randn(shape), "q": torch.randn(shape), "c": torch.randn(2, 16, PAST, 4, 4),
        "t": torch.tensor([700.0, 300.0]), "text": torch.randn(2, 5, 32),
        "cameras": torch.randn(2, FRAMES, 12), "context_cameras": torch.randn(2, PAST, 12),
    }  # fmt: skip


def layers(config: QueryLayersConfig = CONFIG, cameras: float = 1.0) -> QueryLayers:
    torch.manual_seed(3)
    query = QueryLayers(config)
    for parameter in query.cameras.parameters():
        nn.init.normal_(parameter, std=cameras)
    return query


def watch(model, query: QueryLayers, x: dict[str, Tensor], recorder: AttentionRecorder | None, **changes) -> Tensor:
    x = {**x, **changes}
    poses = {name: x[name] for name in ("cameras", "context_cameras")}
    with query.attach(model) as attached, attached.chunk(x["c"], x["q"], **poses, recorder=recorder):
        return model(x["p"], x["t"], x["text"], return_dict=False)[0]


@vary(
    frames=st.integers(1, 4),
    others=st.lists(st.integers(0, 5), max_size=2),
    weighted=st.booleans(),
    hide=st.booleans(),
    at_once=st.sampled_from([1, 60, 2**26]),
    seed=st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_shares_are_those_of_a_dense_softmax(frames, others, weighted, hide, at_once, seed) -> None:
    torch.manual_seed(seed)
    groups = [("c", 3 * frames), *((f"other {i}", n) for i, n in enumerate(others))]
    groups.reverse()
    q = 3 * torch.randn(2, 7, 2, 8)
    kv = {name: (torch.randn(2, n, 2, 8), torch.randn(2, n, 2, 8)) for name, n in [*groups, ("unseen", 4)]}
    weight = {"c": torch.randn(2, 3 * frames)} if weighted else {}
    if hide:  # all of it for one sample, half a frame for the other
        weight["c"] = torch.zeros(2, 3 * frames)
        weight["c"][0], weight["c"][1, 0] = -torch.inf, -torch.inf
    table = Table({"q": q}, kv, {"q": tuple(name for name, _ in groups)}, weight)
    made = frame_shares(table, "q", "c", frames, at_once)

    logits = [
        torch.einsum("bqhd,bkhd->bhqk", q, kv[name][0]).double() / 8**0.5
        + weight.get(name, torch.zeros(2, n)).double()[:, None, None]
        for name, n in groups
    ]
    dense_share = torch.cat(logits, dim=-1).softmax(-1).nan_to_num(0.0)
    start = sum(n for _, n in groups[: [name for name, _ in groups].index("c")])
    expected = dense_share[..., start : start + 3 * frames].unflatten(-1, (frames, 3)).sum(-1).mean((1, 2))
    torch.testing.assert_close(made.double(), expected, atol=1e-6, rtol=1e-5)
    if hide:
        assert not made[0].any()


@pytest.mark.parametrize("changes", [{}, {"layers": 3}, {"query_sees_prediction": False}, {"query_sees_query": True}])
def test_the_recorder_gives_the_shares_of_the_dense_table(model, x, monkeypatch, changes) -> None:
    """The reference runs C, Q and P as one sequence under a mask; the test records its softmaxes."""
    query, recorder, taken = layers(dataclasses.replace(CONFIG, **changes)), AttentionRecorder(queries=True), []
    with torch.no_grad():
        watch(model, query, x, recorder)
        softmax = torch.Tensor.softmax
        monkeypatch.setattr(torch.Tensor, "softmax", lambda *args: taken.append(softmax(*args)) or taken[-1])
        dense(model, query, x, cameras=True)
    c, q = PAST * TOKENS_PER_FRAME, FRAMES * TOKENS_PER_FRAME
    expected = [w[:, :, c : c + q, :c].unflatten(-1, (PAST, -1)).sum(-1).mean((1, 2)) for w in taken]
    made = recorder.shares()
    assert made.shape == (1, query.config.layers, 2, PAST)
    torch.testing.assert_close(made[0], torch.stack(expected[: query.config.layers]), atol=1e-5, rtol=1e-4)
    on_q = [w[:, :, -q:, -2 * q : -q].sum(-1).mean((1, 2)) for w in taken]  # C is gone from the later ones
    assert recorder.shares("queries").shape == (1, query.config.blocks, 2)
    torch.testing.assert_close(recorder.shares("queries")[0], torch.stack(on_q), atol=1e-5, rtol=1e-4)
    total = made.sum(-1)
    assert (made > 0).all()
    if query.config.query_sees_prediction or query.config.query_sees_query:
        assert (total < 1).all()
    else:
        torch.testing.assert_close(total, torch.ones_like(total))


def test_watching_changes_nothing_and_each_forward_is_a_row(model, x) -> None:
    query, recorder = layers(), AttentionRecorder()
    assert recorder.shares().numel() == 0
    with torch.no_grad():
        assert torch.equal(watch(model, query, x, recorder), watch(model, query, x, None))
        watch(model, query, x, recorder, t=torch.tensor([10.0, 20.0]))
        shares = recorder.shares()
        assert shares.shape == (2, 2, 2, PAST) and not recorder.shares("queries").numel()
        assert differ(shares[0, 1], shares[1, 1])  # P has another timestep, and Q sees P
        # a sample's shares are its own, and one context serves all samples
        alone = AttentionRecorder()
        watch(model, query, {name: value[1:] for name, value in x.items()}, alone)
        torch.testing.assert_close(alone.shares()[:, :, 0], shares[:1, :, 1])
        same, rows = AttentionRecorder(), {name: x[name][:1] for name in ("c", "context_cameras")}
        watch(model, query, x, same, **rows)
        torch.testing.assert_close(same.shares()[:, :, 0], shares[:1, :, 0])
        none = AttentionRecorder()
        watch(model, query, x, none, c=None, context_cameras=None)
        assert none.shares().shape == (1, 2, 2, 0)


def test_without_a_recorder_nothing_is_computed(model, x, monkeypatch) -> None:
    def never(*_args, **_more):
        raise AssertionError

    monkeypatch.setattr("memkit.injectors.query_layers.injection.frame_shares", never)
    with torch.no_grad():
        watch(model, layers(), x, None)
        with pytest.raises(AssertionError):
            watch(model, layers(), x, AttentionRecorder())


@pytest.mark.parametrize("memory_first", [False, True])
def test_other_memory_takes_its_share(model, x, memory_first) -> None:
    """In either order; where the memory of a sample is masked out, that sample's shares are unchanged."""
    torch.manual_seed(4)
    mask = torch.tensor([[True] * 6, [False] * 6])
    memory = SelfAttentionConcat(Memory(torch.randn(2, 6, 48), mask))
    query, plain, watched = layers(cameras=0.0), AttentionRecorder(), AttentionRecorder()
    with torch.no_grad():
        watch(model, query, x, plain)
        before_query = memory.attach(model) if memory_first else contextlib.nullcontext()
        with before_query, query.attach(model) as attached:
            after_query = contextlib.nullcontext() if memory_first else memory.attach(model)
            with after_query, attached.chunk(x["c"], x["q"], recorder=watched):
                model(x["p"], x["t"], x["text"])
    before, after = plain.shares()[0, 0], watched.shares()[0, 0]
    assert (after[0] < 0.99 * before[0]).all()
    torch.testing.assert_close(after[1], before[1])


def test_gradient_checkpointing_adds_no_rows(x) -> None:
    found = []
    for on in (False, True):
        model, query, recorder = random_transformer().train(), layers(), AttentionRecorder()
        if on:
            model.enable_gradient_checkpointing()
        with query.attach(model) as attached, attached.chunk(x["c"], x["q"], recorder=recorder):
            model(x["p"], x["t"], x["text"], return_dict=False)[0].sum().backward()
        found.append(recorder.shares())
        assert not found[-1].requires_grad
    assert found[0].shape == (1, 2, 2, PAST)
    torch.testing.assert_close(found[0], found[1])


def test_attend_with_is_the_mean_over_layers_of_one_forward(model, x) -> None:
    query, recorder, ran = layers(), AttentionRecorder(), []
    given = {"context": x["c"], "query": x["q"]} | {name: x[name] for name in ("cameras", "context_cameras")}
    given |= {"positions": [4, 7], "context_positions": [-9, -2, 1]}
    with query.attach(model) as attached:
        with (
            torch.no_grad(),
            attached.chunk(x["c"], x["q"], **{n: given[n] for n in list(given)[2:]}, recorder=recorder),
        ):
            model(x["p"], x["t"], x["text"])
        hook = model.blocks[2].register_forward_pre_hook(lambda *_: ran.append(1))
        made = attend_with(attached, model, x["p"], x["t"], x["text"], **given)
        hook.remove()
        assert not ran  # the generative layer is not needed
        plain = attend_with(attached, model, x["p"], x["t"], x["text"], context=x["c"], query=x["q"])
        again = attend_with(attached, model, x["p"], x["t"], x["text"], **given)
    torch.testing.assert_close(made, recorder.shares()[0].mean(0), atol=1e-6, rtol=1e-5)
    assert made.shape == (2, PAST) and torch.equal(made, again) and differ(made, plain, rtol=1e-5, atol=1e-8)
    assert not any(block._forward_hooks for block in model.blocks)


def test_what_does_not_fit_is_named(model, x) -> None:
    query, recorder, other = layers(), AttentionRecorder(), random_transformer(1)
    asked = (x["p"], x["t"], x["text"])
    with query.attach(model) as attached:
        with pytest.raises(InputError, match="without these query layers; give the one"):
            attend_with(attached, other, *asked, context=x["c"], query=x["q"])
        with pytest.raises(InputError, match="noise for Q"):
            attend_with(attached, model, *asked, context=x["c"])
        with pytest.raises(MemkitError, match="do not nest"), attached.chunk(x["c"], x["q"]):
            attend_with(attached, model, *asked, context=x["c"], query=x["q"])
        assert not model.blocks[1]._forward_hooks and not other.blocks[1]._forward_hooks
    with torch.no_grad():
        with pytest.raises(RuntimeError):  # a text of the wrong width: the forward is cut short
            watch(model, query, x, recorder, text=torch.randn(2, 5, 31), c=None, context_cameras=None)
        assert recorder.shares().numel() == 0
        watch(model, query, x, recorder)
        with pytest.raises(InputError, match="use one for each"):
            watch(model, query, x, recorder, c=x["c"][:, :, :2], context_cameras=x["context_cameras"][:, :2])
