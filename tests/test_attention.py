"""grouped_attention against one dense masked softmax."""

import math

import pytest
import torch
from hypothesis import given, settings

from memkit.attention import attention_share, grouped_attention, sdpa
from memkit.errors import InputError
from memkit.testing import tables

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}


def dense(q, kv, sees, log_weight):
    """All queries against all keys in float64, with the table as a mask."""
    out = {}
    names = list(kv)
    for name, query in q.items():
        k = torch.cat([kv[n][0] for n in names], 1).double()
        v = torch.cat([kv[n][1] for n in names], 1).double()
        bias = torch.cat(
            [
                log_weight[n].double() if n in log_weight else torch.zeros(kv[n][0].shape[:2], dtype=torch.float64)
                for n in names
            ],
            1,
        )
        allowed = torch.cat([torch.full((kv[n][0].shape[1],), n in sees[name]) for n in names])
        logits = torch.einsum("bqhd,bkhd->bhqk", query.double(), k) / math.sqrt(query.shape[-1]) + bias[:, None, None]
        logits = logits.masked_fill(~allowed, -torch.inf)
        weights = torch.nan_to_num(torch.softmax(logits, -1), nan=0.0)
        out[name] = torch.einsum("bhqk,bkhd->bqhd", weights, v)
    return out


@given(tables(dtypes=list(TOLERANCE)))
@settings(max_examples=200, deadline=None)
def test_equals_a_dense_masked_softmax(table):
    q, kv, sees, log_weight = table
    dtype = next(iter(q.values())).dtype
    got = grouped_attention(q, kv, sees, log_weight)
    want = dense(q, kv, sees, log_weight)
    assert got.keys() == want.keys()
    for name in got:
        assert got[name].dtype == dtype
        torch.testing.assert_close(got[name].double(), want[name], rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_keys_of_several_groups_are_joined_head_by_head():
    """Attention on a CPU is slower over keys [B,K,H,D] by more than it takes to copy them."""
    kv = {name: (torch.randn(2, n, 3, 8), torch.randn(2, n, 3, 8)) for name, n in (("x", 5), ("m", 7))}
    q, seen = torch.randn(2, 5, 3, 8), []

    def attend(*inputs):
        seen.append(inputs)
        return sdpa(*inputs)

    out = grouped_attention({"x": q}, kv, {"x": ("x", "m")}, attend=attend)["x"]
    k, v = (torch.cat([kv["x"][i], kv["m"][i]], 1) for i in (0, 1))
    assert torch.equal(out, sdpa(q, k, v, None))
    assert all(
        torch.equal(x, y) and x.transpose(1, 2).is_contiguous() for x, y in zip(seen[0][1:3], (k, v), strict=True)
    )


@given(tables(dtypes=list(TOLERANCE)))
@settings(max_examples=50, deadline=None)
def test_shares_of_the_groups_seen_sum_to_one(table):
    q, kv, sees, log_weight = table
    for name in q:
        row = sees[name]
        total = sum(attention_share({name: q[name]}, kv, sees, g, log_weight)[name] for g in row) if row else 0
        visible = torch.zeros(q[name].shape[0])
        for g in row:
            weight = log_weight.get(g, torch.zeros(kv[g][0].shape[:2]))
            visible = visible + (weight != -torch.inf).sum(1)
        expected = (visible > 0).float()[:, None, None].expand(q[name].shape[:3])
        torch.testing.assert_close(torch.as_tensor(total) + torch.zeros(q[name].shape[:3]), expected)


@pytest.mark.parametrize("copies", [2, 7, 100])
def test_log_weight_ln_n_stands_for_n_copies(copies):
    q, k, v = (torch.randn(2, n, 2, 8, dtype=torch.float64) for n in (5, 3, 3))
    weight = torch.tensor([[math.log(copies), 0.0, 0.0]]).expand(2, -1).double()
    once = grouped_attention({"x": q}, {"m": (k, v)}, {"x": ("m",)}, {"m": weight})["x"]
    index = [0] * copies + [1, 2]
    often = grouped_attention({"x": q}, {"m": (k[:, index], v[:, index])}, {"x": ("m",)})["x"]
    torch.testing.assert_close(once, often)


def plain(q, k, v, mask):
    """Attention by a bare softmax, which gives NaN where every key is hidden, and refuses to run without keys."""
    assert k.shape[1] > 0
    logits = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[-1])
    logits = logits if mask is None else logits + mask
    return torch.einsum("bhqk,bkhd->bqhd", torch.softmax(logits, -1), v)


def test_a_backend_is_never_asked_for_attention_over_no_keys():
    q, k = torch.randn(1, 3, 1, 4), torch.randn(1, 0, 1, 4)
    out = grouped_attention({"x": q}, {"m": (k, k)}, {"x": ("m",)}, attend=plain)["x"]
    assert (out == 0).all() and out.shape == q.shape


@pytest.mark.parametrize("attend", [sdpa, plain])
def test_a_query_that_sees_nothing_gives_zero_and_a_finite_gradient(attend):
    q, k, v = (torch.randn(2, 4, 1, 8, requires_grad=True) for _ in range(3))
    weight = torch.full((2, 4), -torch.inf)
    weight[1] = 0.0
    out = grouped_attention({"x": q}, {"m": (k, v)}, {"x": ("m",)}, {"m": weight}, attend)["x"]
    assert (out[0] == 0).all() and (out[1] != 0).all()
    out.sum().backward()
    assert all(x.grad.isfinite().all() for x in (q, k, v))
    assert (k.grad[0] == 0).all() and (v.grad[0] == 0).all() and (v.grad[1] != 0).any()


def test_the_order_of_a_row_does_not_matter():
    q, *rest = (torch.randn(1, 3, 2, 8, dtype=torch.float64) for _ in range(5))
    kv = {"a": (rest[0], rest[1]), "b": (rest[2], rest[3])}
    one = grouped_attention({"x": q}, kv, {"x": ("a", "b")})["x"]
    other = grouped_attention({"x": q}, kv, {"x": ("b", "a")})["x"]
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("sees", "weight", "says"),
    [
        ({}, {}, "no row"),
        ({"x": ("z",)}, {}, "no keys"),
        ({"x": ("m", "m")}, {}, "twice"),
        ({"x": ("m",)}, {"z": torch.zeros(1, 2)}, "no keys"),
        ({"x": ("m",)}, {"m": torch.zeros(1, 3)}, "shape"),
    ],
)
def test_a_wrong_table_is_named(sees, weight, says):
    q = torch.randn(1, 2, 1, 4)
    with pytest.raises(InputError, match=says):
        grouped_attention({"x": q}, {"m": (q, q)}, sees, weight)
