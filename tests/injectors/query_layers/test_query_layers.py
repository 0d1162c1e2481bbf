"""QueryLayers against a dense reference, and who may change whom."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from memkit.backbones.rotary import rotary_at, rotate
from memkit.cameras import relative_pose_vectors
from memkit.errors import InputError, MemkitError
from memkit.generation import conditioning_frames
from memkit.injectors import CameraEncoder, QueryLayers, QueryLayersConfig, SelfAttentionConcat
from memkit.memory import Memory
from tests.helpers.random_wan import random_transformer

# queries apart from the prediction in what they hold and at which timestep, so that a test can move one of them alone
CONFIG = QueryLayersConfig(dim=48, blocks=3, layers=2, query="noise", query_time="clean")
FRAMES, PAST = 2, 3


@pytest.fixture(scope="module")
def model() -> WanTransformer3DModel:
    return random_transformer()


@pytest.fixture(scope="module")
def given() -> dict[str, Tensor]:
    torch.manual_seed(1)
    shape = (2, 16, FRAMES, 4, 4)
    past = torch.randn(2, 16, PAST, 4, 4)
    poses = {"cameras": torch.randn(2, FRAMES, 12), "context_cameras": torch.randn(2, PAST, 12)}
    return {
        "p": torch.randn(shape), "q": torch.randn(shape), "c": past, "t": torch.tensor([700.0, 300.0]),
        "text": torch.randn(2, 5, 32), **poses,
    }  # fmt: skip


def layers(config: QueryLayersConfig = CONFIG, cameras: float = 0.0) -> QueryLayers:
    torch.manual_seed(3)
    query = QueryLayers(config)
    for parameter in query.cameras.parameters():
        torch.nn.init.normal_(parameter, std=cameras)
    return query


def run(model, query: QueryLayers, given: dict[str, Tensor], cameras: bool = False, **changes: Tensor | None) -> Tensor:
    x = {**given, **changes}
    poses = {name: x[name] for name in ("cameras", "context_cameras")} if cameras else {}
    noise = x["q"] if query.config.query == "noise" else None
    with query.attach(model) as attached, attached.chunk(x["c"], noise, **poses):
        return model(x["p"], x["t"], x["text"], return_dict=False)[0]


def dense(model, query: QueryLayers, x: dict[str, Tensor], cameras: bool = False, of: str = "p") -> Tensor:
    """All of C, Q and P in one sequence, with a boolean mask, until C is cut off after the last query layer.

    What the model gives for the frames of P, or of Q.
    """
    config = query.config
    frames = {"c": x["c"], "q": x["q"] if config.query == "noise" else x["p"], "p": x["p"]}
    tokens = {name: model.patch_embedding(value).flatten(2).mT for name, value in frames.items()}
    counts = {name: value.shape[1] for name, value in tokens.items()}
    clean = {"c": config.context_time == "clean", "q": config.query_time == "clean", "p": False}
    times = torch.cat([x["t"][:, None].expand(-1, n) * (not clean[name]) for name, n in counts.items()], dim=1)
    _, temb, text, _ = model.condition_embedder(times.flatten(), x["text"], timestep_seq_len=times.shape[1])
    temb = temb.unflatten(2, (6, -1))
    places = {"c": range(-PAST, 0), "q": range(FRAMES), "p": range(FRAMES)}
    tables = [rotary_at(model.rope, at, 2, 2) for at in places.values()]
    cos, sin = (torch.cat([table[i] for table in tables], dim=1) for i in range(2))
    poses = torch.cat([x["context_cameras"], x["cameras"], x["cameras"]], dim=1)
    who = [name for name, n in counts.items() for _ in range(n)]
    hidden = torch.cat(list(tokens.values()), dim=1)
    for i, block in enumerate(model.blocks):
        if i == config.layers:  # C is gone
            keep = torch.tensor([name != "c" for name in who])
            hidden, temb, cos, sin = hidden[:, keep], temb[:, keep], cos[:, keep], sin[:, keep]
            who, poses = [name for name in who if name != "c"], poses[:, PAST:]
        sees = {
            "p": "pq",
            "q": ("p" if config.query_sees_prediction else "") + ("q" if config.query_sees_query else ""),
        }
        sees["q"] += "c" if i < config.layers else ""
        mask = torch.tensor([[b in sees.get(a, "") for b in who] for a in who])
        shift, scale, gate, c_shift, c_scale, c_gate = (block.scale_shift_table[None] + temb).unbind(2)
        h = block.norm1(hidden) * (1 + scale) + shift
        if cameras:
            h = h + query.cameras["exact"].layers[i](poses).repeat_interleave(4, dim=1)
        attn = block.attn1
        q, k, v = (
            f.unflatten(2, (2, -1)) for f in (attn.norm_q(attn.to_q(h)), attn.norm_k(attn.to_k(h)), attn.to_v(h))
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
        blind = ~mask.any(1)
        weights = scores.masked_fill(~mask, -torch.inf).masked_fill(blind[:, None], 0).softmax(-1)
        out = attn.to_out[0](torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2))
        out = out.masked_fill(torch.tensor([name == "c" for name in who])[:, None], 0)  # it passes unchanged
        hidden = hidden + out * gate
        hidden = hidden + block.attn2(block.norm2(hidden), text, None, None)
        hidden = hidden + block.ffn(block.norm3(hidden) * (1 + c_scale) + c_shift) * c_gate
    keep = torch.tensor([name == of for name in who])
    temb, _, _, _ = model.condition_embedder(x["t"] * (not clean[of]), x["text"])
    shift, scale = (model.scale_shift_table + temb[:, None]).chunk(2, dim=1)
    out = model.proj_out(model.norm_out(hidden[:, keep]) * (1 + scale) + shift)
    out = out.reshape(2, FRAMES, 2, 2, 1, 2, 2, -1).permute(0, 7, 1, 4, 2, 5, 3, 6)
    return out.flatten(6, 7).flatten(4, 5).flatten(2, 3)


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"layers": 1}, {"layers": 3}, {"query": "copy"}, {"query_time": "shared"}, {"context_time": "shared"},
        {"query_time": "shared", "context_time": "shared"}, {"query": "copy", "query_time": "shared"},
        {"query_sees_prediction": False}, {"query_sees_query": True},
    ],
)  # fmt: skip
def test_query_layers_are_the_dense_table(model, given, changes) -> None:
    query = layers(dataclasses.replace(CONFIG, **changes), cameras=0.3)
    for cameras in (False, True):
        with torch.no_grad():
            made, expected = run(model, query, given, cameras), dense(model, query, given, cameras)
        torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("changes", [{}, {"layers": 3}, {"query": "copy"}, {"query_time": "shared"}])
def test_a_chunk_keeps_what_the_model_gives_for_q(model, given, changes) -> None:
    query = layers(dataclasses.replace(CONFIG, **changes), cameras=0.3)
    noise = given["q"] if query.config.query == "noise" else None
    poses = {name: given[name] for name in ("cameras", "context_cameras")}
    with torch.no_grad(), query.attach(model) as attached, attached.chunk(given["c"], noise, **poses) as chunk:
        assert chunk.query_velocity is None
        model(given["p"], given["t"], given["text"])
        assert chunk.query_velocity is not None
        torch.testing.assert_close(chunk.query_velocity, dense(model, query, given, True, of="q"), atol=1e-5, rtol=1e-4)
    assert chunk.query_velocity is None  # nothing keeps it, or its graph, alive


def test_a_copy_of_p_at_the_time_of_p_changes_nothing_until_there_is_context(model, given) -> None:
    """Each query is then its token of P over again, and a softmax that sees every key twice is the one it was."""
    as_p = QueryLayersConfig(dim=48, blocks=3, layers=2)
    with torch.no_grad(), conditioning_frames(given["c"][:, :, :1], model):
        plain = model(given["p"], given["t"], given["text"], return_dict=False)[0]
        torch.testing.assert_close(run(model, layers(as_p), given, c=None), plain, atol=1e-5, rtol=1e-4)
        assert (run(model, layers(as_p), given) - plain).abs().max() > 1e-3
        for other in ({"query": "noise"}, {"query_time": "clean"}):
            changed = layers(dataclasses.replace(as_p, **other))
            assert (run(model, changed, given, c=None) - plain).abs().max() > 1e-3


def test_cameras_that_were_not_trained_change_nothing(model, given) -> None:
    with torch.no_grad():
        assert torch.equal(run(model, layers(), given, cameras=True), run(model, layers(), given))
    assert all(not p.any() for p in CameraEncoder(48, 3).parameters())


def test_the_context_is_computed_once_a_chunk_and_text(model, given) -> None:
    query, other = layers(), torch.randn(2, 5, 32)
    with torch.no_grad(), query.attach(model) as attached:
        with attached.chunk(given["c"], given["q"]) as chunk:
            made = []
            for t in (900.0, 500.0, 100.0):
                for text in (given["text"], other):
                    made.append(model(given["p"], torch.tensor([t, t]), text, return_dict=False)[0])
            assert chunk.runs == 2
        anew = []
        for t in (900.0, 500.0, 100.0):
            for text in (given["text"], other):
                with attached.chunk(given["c"], given["q"]):
                    anew.append(model(given["p"], torch.tensor([t, t]), text, return_dict=False)[0])
    assert all(torch.equal(a, b) for a, b in zip(made, anew, strict=True))
    shared = layers(dataclasses.replace(CONFIG, context_time="shared"))
    with torch.no_grad(), shared.attach(model) as attached, attached.chunk(given["c"], given["q"]) as chunk:
        for t in (900.0, 500.0):
            model(given["p"], torch.tensor([t, t]), given["text"])
        assert chunk.runs == 2


class _Watch:
    """Records keys and values of the context, and the output of each block."""

    def __init__(self, model) -> None:
        self.outputs: list[Tensor] = []
        self.hooks = [block.register_forward_hook(self._keep) for block in model.blocks]

    def _keep(self, _block, _args, output: Tensor) -> None:
        self.outputs.append(output.detach().clone())

    def take(self) -> list[Tensor]:
        made, self.outputs = self.outputs, []
        return made


def test_who_changes_whom(model, given) -> None:
    query, watch = layers(), _Watch(model)

    def blocks(**changes: Tensor) -> list[Tensor]:
        with torch.no_grad():
            run(model, query, given, **changes)
        return watch.take()

    try:
        plain, far = blocks(), blocks(c=given["c"] + 1.0)
        # the pass of C ends inside its last query layer; then three blocks over Q and P, 8 tokens each
        assert [x.shape[1] for x in plain] == [12, 16, 16, 16]
        first = [torch.equal(a[:, 8:], b[:, 8:]) for a, b in zip(plain[1:], far[1:], strict=True)]
        assert first == [True, False, False]  # P hears of C from Q alone, so a layer later
        assert not torch.equal(plain[1][:, :8], far[1][:, :8])
        # C changes through attention in no layer: no other clip of it, no Q and no P
        assert torch.equal(blocks(p=given["p"] + 1.0)[0], plain[0])
        assert torch.equal(blocks(q=given["q"] + 1.0)[0], plain[0])
        moved = given["c"].clone()
        moved[:, :, 0] += 1.0
        assert torch.equal(blocks(c=moved)[0][:, 4:], plain[0][:, 4:])
    finally:
        for hook in watch.hooks:
            hook.remove()


def test_after_the_query_layers_nothing_of_the_context_is_seen(model, given) -> None:
    """With Q and P as they are before the last block, C's keys and values change nothing there."""
    query = layers(dataclasses.replace(CONFIG, layers=1))
    seen: list[int] = []
    from memkit.injectors.query_layers.injection import QueryLayer

    original = QueryLayer.extend

    def extend(self, table, attn, prepared):
        group = original(self, table, attn, prepared)
        seen.append(len(table.kv) if not prepared.of_context else 0)
        return group

    QueryLayer.extend = extend
    try:
        with torch.no_grad():
            run(model, query, given)
    finally:
        QueryLayer.extend = original
    assert seen == [3, 2, 2]  # the pass of C raises inside its only layer


def test_detached_the_model_is_what_it_was(model, given) -> None:
    with torch.no_grad():
        before = model(given["p"], given["t"], given["text"], return_dict=False)[0]
        run(model, layers(), given)
        after = model(given["p"], given["t"], given["text"], return_dict=False)[0]
    assert torch.equal(before, after)
    for module in [model, model.rope, *model.blocks, *(block.attn1 for block in model.blocks)]:
        assert not module._forward_hooks and not module._forward_pre_hooks


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_the_model_the_cameras_and_the_context(given, checkpointing) -> None:
    gradients = []
    for on in {False, checkpointing}:
        model, query = random_transformer().train(), layers(cameras=0.3)
        if on:
            model.enable_gradient_checkpointing()
        context = given["c"].clone().requires_grad_()
        poses = {name: given[name] for name in ("cameras", "context_cameras")}
        with query.attach(model) as attached, attached.chunk(context, given["q"], **poses):
            model(given["p"], given["t"], given["text"], return_dict=False)[0].square().sum().backward()
        assert context.grad is not None and context.grad.abs().sum() > 0
        parts = [*query.parameters(), *model.parameters()]
        assert all(p.grad is not None for p in query.parameters())
        gradients.append([context.grad, *(p.grad for p in parts if p.grad is not None)])
    for a, b in zip(gradients[0], gradients[-1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_memory_tokens_and_query_layers_compose_in_either_order(model, given) -> None:
    query, memory = layers(), Memory(torch.randn(2, 4, 48))
    with torch.no_grad():
        with SelfAttentionConcat(memory).attach(model):
            one = run(model, query, given)
        with (
            query.attach(model) as attached,
            SelfAttentionConcat(memory).attach(model),
            attached.chunk(given["c"], given["q"]),
        ):
            other = model(given["p"], given["t"], given["text"], return_dict=False)[0]
        alone = run(model, query, given)
    torch.testing.assert_close(one, other)
    assert not torch.allclose(one, alone)


def test_no_context_and_learned_queries(model, given) -> None:
    config = dataclasses.replace(CONFIG, query="learned", query_shape=(16, FRAMES, 4, 4))
    query = layers(config)
    with torch.no_grad():
        made = run(model, query, given)
        none = run(model, query, given, c=None)
    assert made.shape == none.shape == given["p"].shape and not torch.equal(made, none)
    with query.attach(model) as attached, attached.chunk(None):
        model(given["p"], given["t"], given["text"], return_dict=False)[0].sum().backward()
    assert query.learned is not None and query.learned.grad is not None and query.learned.grad.any()


def test_saved_and_loaded(tmp_path, model, given) -> None:
    query = layers(cameras=0.3)
    query.save_pretrained(tmp_path)
    again = QueryLayers.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(run(model, query, given, cameras=True), run(model, again, given, cameras=True))


def test_poses_are_relative_to_the_first() -> None:
    torch.manual_seed(0)
    turns = torch.linalg.qr(torch.randn(5, 3, 3, dtype=torch.float64)).Q
    c2w = torch.eye(4, dtype=torch.float64).repeat(5, 1, 1)
    c2w[:, :3, :3], c2w[:, :3, 3] = turns, torch.randn(5, 3, dtype=torch.float64)
    moved = c2w[2] @ c2w  # another origin of the world
    torch.testing.assert_close(relative_pose_vectors(c2w), relative_pose_vectors(moved))
    torch.testing.assert_close(relative_pose_vectors(c2w)[0], torch.eye(4, dtype=torch.float64)[:3].flatten())


def test_what_does_not_fit_is_named(model, given) -> None:
    with pytest.raises(InputError, match="not more than all"):
        QueryLayersConfig(blocks=3, layers=4)
    with pytest.raises(InputError, match="64 and 3; make them with dim=48"):
        QueryLayers(dataclasses.replace(CONFIG, dim=64)).attach(model)
    with layers().attach(model) as attached:
        with pytest.raises(MemkitError, match="outside a chunk"):
            model(given["p"], given["t"], given["text"])
        with pytest.raises(InputError, match="attached already"):
            layers().attach(model)
        with attached.chunk(given["c"]), pytest.raises(InputError, match="noise for Q"):
            model(given["p"], given["t"], given["text"])
        with attached.chunk(given["c"][:, :, :, :2], given["q"]), pytest.raises(InputError, match="same channels and"):
            model(given["p"], given["t"], given["text"])
        for bad in ({"context_positions": [1]}, {"context_cameras": torch.zeros(1, 1, 12)}):
            with pytest.raises(InputError, match="3 frames"):
                attached.chunk(given["c"], given["q"], **bad)
        with pytest.raises(InputError, match="no encoder"):
            attached.chunk(given["c"], given["q"], cameras=given["cameras"], annotation="guessed")
        with attached.chunk(given["c"], given["q"], positions=[0]), pytest.raises(InputError, match="2 frames"):
            model(given["p"], given["t"], given["text"])
        with attached.chunk(given["c"], given["q"]), pytest.raises(MemkitError, match="do not nest"):
            attached.chunk(given["c"], given["q"]).__enter__()
    with torch.no_grad():  # and all is well afterwards
        run(model, layers(), given)
