"""QueryLayers against a dense reference, and which tokens can change which."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from memkit.cameras import relative_pose_vectors
from memkit.errors import InputError, MemkitError
from memkit.generation import conditioning_frames
from memkit.injectors import CameraEncoder, QueryLayers, QueryLayersConfig, SelfAttentionConcat
from memkit.memory import Memory
from tests.helpers.differ import differ
from tests.helpers.random_wan import random_transformer
from tests.injectors.query_layers.common import CONFIG, FRAMES, dense, layers, run


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"layers": 1}, {"layers": 3}, {"query": "copy"}, {"query_time": "shared"}, {"context_time": "shared"},
        {"query_time": "shared", "context_time": "shared"}, {"query": "copy", "query_time": "shared"},
        {"query_sees_prediction": False}, {"query_sees_query": True},
    ],
)  # fmt: skip
def test_query_layers_are_the_dense_table(model, inputs, changes) -> None:
    query = layers(dataclasses.replace(CONFIG, **changes), cameras=0.3)
    for cameras in (False, True):
        with torch.no_grad():
            made, expected = run(model, query, inputs, cameras), dense(model, query, inputs, cameras)
        torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("changes", [{}, {"layers": 3}, {"query": "copy"}, {"query_time": "shared"}])
def test_a_chunk_keeps_what_the_model_gives_for_q(model, inputs, changes) -> None:
    query = layers(dataclasses.replace(CONFIG, **changes), cameras=0.3)
    noise = inputs["q"] if query.config.query == "noise" else None
    poses = {name: inputs[name] for name in ("cameras", "context_cameras")}
    with torch.no_grad(), query.attach(model) as attached, attached.chunk(inputs["c"], noise, **poses) as chunk:
        assert chunk.query_velocity is None
        model(inputs["p"], inputs["t"], inputs["text"])
        assert chunk.query_velocity is not None
        torch.testing.assert_close(
            chunk.query_velocity, dense(model, query, inputs, True, of="q"), atol=1e-5, rtol=1e-4
        )
    assert chunk.query_velocity is None  # so that neither it nor its autograd graph stays alive


def test_a_copy_of_p_at_the_time_of_p_changes_nothing_until_there_is_context(model, inputs) -> None:
    """Each query then equals its token of P, and a softmax over keys that all occur twice is unchanged."""
    as_p = QueryLayersConfig(dim=48, blocks=3, layers=2)
    with torch.no_grad(), conditioning_frames(inputs["c"][:, :, :1], model):
        plain = model(inputs["p"], inputs["t"], inputs["text"], return_dict=False)[0]
        torch.testing.assert_close(run(model, layers(as_p), inputs, c=None), plain, atol=1e-5, rtol=1e-4)
        assert (run(model, layers(as_p), inputs) - plain).abs().max() > 1e-3
        for other in ({"query": "noise"}, {"query_time": "clean"}):
            changed = layers(dataclasses.replace(as_p, **other))
            assert (run(model, changed, inputs, c=None) - plain).abs().max() > 1e-3


def test_cameras_that_were_not_trained_change_nothing(model, inputs) -> None:
    with torch.no_grad():
        assert torch.equal(run(model, layers(), inputs, cameras=True), run(model, layers(), inputs))
    assert all(not p.any() for p in CameraEncoder(48, 3).parameters())


def test_the_context_is_computed_once_per_chunk_and_text(model, inputs) -> None:
    query, other = layers(), torch.randn(2, 5, 32)
    with torch.no_grad(), query.attach(model) as attached:
        with attached.chunk(inputs["c"], inputs["q"]) as chunk:
            made = []
            for t in (900.0, 500.0, 100.0):
                for text in (inputs["text"], other):
                    made.append(model(inputs["p"], torch.tensor([t, t]), text, return_dict=False)[0])
            assert chunk.runs == 2
        anew = []
        for t in (900.0, 500.0, 100.0):
            for text in (inputs["text"], other):
                with attached.chunk(inputs["c"], inputs["q"]):
                    anew.append(model(inputs["p"], torch.tensor([t, t]), text, return_dict=False)[0])
    assert all(torch.equal(a, b) for a, b in zip(made, anew, strict=True))
    shared = layers(dataclasses.replace(CONFIG, context_time="shared"))
    with torch.no_grad(), shared.attach(model) as attached, attached.chunk(inputs["c"], inputs["q"]) as chunk:
        for t in (900.0, 500.0):
            model(inputs["p"], torch.tensor([t, t]), inputs["text"])
        assert chunk.runs == 2


class BlockOutputs:
    """Records the output of each block."""

    def __init__(self, model) -> None:
        self.outputs: list[Tensor] = []
        self.hooks = [block.register_forward_hook(self._keep) for block in model.blocks]

    def _keep(self, _block, _args, output: Tensor) -> None:
        self.outputs.append(output.detach().clone())

    def take(self) -> list[Tensor]:
        made, self.outputs = self.outputs, []
        return made


def test_who_changes_whom(model, inputs) -> None:
    query, watch = layers(), BlockOutputs(model)

    def blocks(**changes: Tensor) -> list[Tensor]:
        with torch.no_grad():
            run(model, query, inputs, **changes)
        return watch.take()

    try:
        plain, far = blocks(), blocks(c=inputs["c"] + 1.0)
        # the pass of C ends inside its last query layer; then three blocks over Q and P, 8 tokens each
        assert [x.shape[1] for x in plain] == [12, 16, 16, 16]
        first = [torch.equal(a[:, 8:], b[:, 8:]) for a, b in zip(plain[1:], far[1:], strict=True)]
        assert first == [True, False, False]  # C reaches P only through Q, so one layer later
        assert differ(plain[1][:, :8], far[1][:, :8])
        # no layer changes C through attention: neither its other clips, nor Q, nor P
        assert torch.equal(blocks(p=inputs["p"] + 1.0)[0], plain[0])
        assert torch.equal(blocks(q=inputs["q"] + 1.0)[0], plain[0])
        moved = inputs["c"].clone()
        moved[:, :, 0] += 1.0
        assert torch.equal(blocks(c=moved)[0][:, 4:], plain[0][:, 4:])
    finally:
        for hook in watch.hooks:
            hook.remove()


def test_after_the_query_layers_nothing_of_the_context_is_seen(model, inputs) -> None:
    """The blocks after the query layers attend to the keys and values of Q and P only."""
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
            run(model, query, inputs)
    finally:
        QueryLayer.extend = original
    assert seen == [3, 2, 2]  # the pass of C raises inside its only layer


def test_detached_the_model_is_what_it_was(model, inputs) -> None:
    with torch.no_grad():
        before = model(inputs["p"], inputs["t"], inputs["text"], return_dict=False)[0]
        run(model, layers(), inputs)
        after = model(inputs["p"], inputs["t"], inputs["text"], return_dict=False)[0]
    assert torch.equal(before, after)
    for module in [model, model.rope, *model.blocks, *(block.attn1 for block in model.blocks)]:
        assert not module._forward_hooks and not module._forward_pre_hooks


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_the_model_the_cameras_and_the_context(inputs, checkpointing) -> None:
    gradients = []
    for on in {False, checkpointing}:
        model, query = random_transformer().train(), layers(cameras=0.3)
        if on:
            model.enable_gradient_checkpointing()
        context = inputs["c"].clone().requires_grad_()
        poses = {name: inputs[name] for name in ("cameras", "context_cameras")}
        with query.attach(model) as attached, attached.chunk(context, inputs["q"], **poses):
            model(inputs["p"], inputs["t"], inputs["text"], return_dict=False)[0].square().sum().backward()
        assert context.grad is not None and context.grad.abs().sum() > 0
        parts = [*query.parameters(), *model.parameters()]
        assert all(p.grad is not None for p in query.parameters())
        gradients.append([context.grad, *(p.grad for p in parts if p.grad is not None)])
    for a, b in zip(gradients[0], gradients[-1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_memory_tokens_and_query_layers_compose_in_either_order(model, inputs) -> None:
    query, memory = layers(), Memory(torch.randn(2, 4, 48))
    with torch.no_grad():
        with SelfAttentionConcat(memory).attach(model):
            one = run(model, query, inputs)
        with (
            query.attach(model) as attached,
            SelfAttentionConcat(memory).attach(model),
            attached.chunk(inputs["c"], inputs["q"]),
        ):
            other = model(inputs["p"], inputs["t"], inputs["text"], return_dict=False)[0]
        alone = run(model, query, inputs)
    torch.testing.assert_close(one, other)
    assert differ(one, alone, rtol=1e-5, atol=1e-8)


def test_no_context_and_learned_queries(model, inputs) -> None:
    config = dataclasses.replace(CONFIG, query="learned", query_shape=(16, FRAMES, 4, 4))
    query = layers(config)
    with torch.no_grad():
        made = run(model, query, inputs)
        none = run(model, query, inputs, c=None)
    assert made.shape == none.shape == inputs["p"].shape and differ(made, none)
    with query.attach(model) as attached, attached.chunk(None):
        model(inputs["p"], inputs["t"], inputs["text"], return_dict=False)[0].sum().backward()
    assert query.learned is not None and query.learned.grad is not None and query.learned.grad.any()


def test_saved_and_loaded(tmp_path, model, inputs) -> None:
    query = layers(cameras=0.3)
    query.save_pretrained(tmp_path)
    again = QueryLayers.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(run(model, query, inputs, cameras=True), run(model, again, inputs, cameras=True))


def test_poses_are_relative_to_the_first() -> None:
    torch.manual_seed(0)
    turns = torch.linalg.qr(torch.randn(5, 3, 3, dtype=torch.float64)).Q
    c2w = torch.eye(4, dtype=torch.float64).repeat(5, 1, 1)
    c2w[:, :3, :3], c2w[:, :3, 3] = turns, torch.randn(5, 3, dtype=torch.float64)
    moved = c2w[2] @ c2w  # another origin of the world
    torch.testing.assert_close(relative_pose_vectors(c2w), relative_pose_vectors(moved))
    torch.testing.assert_close(relative_pose_vectors(c2w)[0], torch.eye(4, dtype=torch.float64)[:3].flatten())


def test_what_does_not_fit_is_named(model, inputs) -> None:
    with pytest.raises(InputError, match="not more than all"):
        QueryLayersConfig(blocks=3, layers=4)
    with pytest.raises(InputError, match="64 and 3; make them with dim=48"):
        QueryLayers(dataclasses.replace(CONFIG, dim=64)).attach(model)
    with layers().attach(model) as attached:
        with pytest.raises(MemkitError, match="outside a chunk"):
            model(inputs["p"], inputs["t"], inputs["text"])
        with pytest.raises(InputError, match="attached already"):
            layers().attach(model)
        with attached.chunk(inputs["c"]), pytest.raises(InputError, match="noise for Q"):
            model(inputs["p"], inputs["t"], inputs["text"])
        with (
            attached.chunk(inputs["c"][:, :, :, :2], inputs["q"]),
            pytest.raises(InputError, match="same channels and"),
        ):
            model(inputs["p"], inputs["t"], inputs["text"])
        for bad in ({"context_positions": [1]}, {"context_cameras": torch.zeros(1, 1, 12)}):
            with pytest.raises(InputError, match="3 frames"):
                attached.chunk(inputs["c"], inputs["q"], **bad)
        with pytest.raises(InputError, match="no encoder"):
            attached.chunk(inputs["c"], inputs["q"], cameras=inputs["cameras"], annotation="guessed")
        with attached.chunk(inputs["c"], inputs["q"], positions=[0]), pytest.raises(InputError, match="2 frames"):
            model(inputs["p"], inputs["t"], inputs["text"])
        with attached.chunk(inputs["c"], inputs["q"]), pytest.raises(MemkitError, match="do not nest"):
            attached.chunk(inputs["c"], inputs["q"]).__enter__()
    with torch.no_grad():  # the model still works afterwards
        run(model, layers(), inputs)
