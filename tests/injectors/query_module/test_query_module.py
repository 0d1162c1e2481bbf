"""QueryModule against stock Wan and against QueryLayers of the same weights, and which tokens can change which."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import Tensor, nn

from memkit.backbones import WanBackbone
from memkit.errors import InputError
from memkit.injectors import (
    AttentionRecorder,
    QueryLayers,
    QueryLayersConfig,
    QueryModule,
    QueryModuleConfig,
    SelfAttentionConcat,
)
from memkit.injectors.query_module import query_module_loss
from tests.helpers.differ import differ
from tests.helpers.random_wan import random_transformer

CONFIG = QueryModuleConfig(layers=3, heads=2, head_dim=24, ffn_dim=64, text_dim=32)
FRAMES, PAST, TOKENS_PER_FRAME = 2, 3, 8
PLACES = {"positions": [5, 9], "context_positions": [-7, 0, 2]}


@pytest.fixture(scope="module")
def module() -> QueryModule:
    return make()


@pytest.fixture(scope="module")
def x() -> dict[str, Tensor]:
    torch.manual_seed(1)
    poses = {"cameras": torch.randn(2, FRAMES, 12), "context_cameras": torch.randn(2, PAST, 12)}
    noise, past = torch.randn(2, 16, FRAMES, 4, 8), torch.randn(2, 16, PAST, 4, 8)
    return {"q": noise, "c": past, "text": torch.randn(2, 5, 32), **poses}


def make(config: QueryModuleConfig = CONFIG) -> QueryModule:
    torch.manual_seed(3)
    module = QueryModule(config).eval()
    for parameter in module.cameras.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


def run(module: QueryModule, x: dict[str, Tensor], recorder: AttentionRecorder | None = None, **changes) -> Tensor:
    given = {**x, **changes}
    poses = {name: given[name] for name in ("cameras", "context_cameras")}
    with torch.no_grad():
        return module(given["q"], given["c"], given["text"], **poses, recorder=recorder).tokens


def stock(module: QueryModule):
    """A stock Wan, with diffusers' own attention processors, and the module's weights."""
    model = random_transformer(num_layers=module.config.layers)
    model.load_state_dict(module.wan.state_dict())
    return model


def test_with_no_context_it_is_a_stock_wan_at_timestep_0(module, x) -> None:
    with torch.no_grad():
        for none in (None, x["c"][:, :, :0]):
            memory = module(x["q"], none, x["text"])
            assert memory.tokens.shape == (2, FRAMES * TOKENS_PER_FRAME, 48) and memory.mask is None
            made = module.predict(memory.tokens, FRAMES, 4, 8)
            expected = stock(module)(x["q"], torch.zeros(2), x["text"], return_dict=False)[0]
            torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("poses", [False, True])
@pytest.mark.parametrize("rows", [1, 2])
def test_q_is_that_of_query_layers_with_the_same_weights(module, x, poses, rows) -> None:
    """QueryLayers where Q sees C and itself but not P, which have their own dense reference. Shares agree as well."""
    model, taken = stock(module), []
    sees = {"query_sees_prediction": False, "query_sees_query": True}
    config = QueryLayersConfig(dim=48, blocks=3, layers=3, query="noise", query_time="clean", **sees)
    query, (one, other) = QueryLayers(config), (AttentionRecorder(), AttentionRecorder())
    query.cameras.load_state_dict(module.cameras.state_dict())
    given = dict(PLACES)
    if poses:
        given |= {"cameras": x["cameras"][:rows], "context_cameras": x["context_cameras"][:rows]}
    model.blocks[-1].register_forward_hook(lambda _block, _args, out: taken.append(out[:, : FRAMES * TOKENS_PER_FRAME]))
    with torch.no_grad():
        with query.attach(model) as attached, attached.chunk(x["c"][:rows], x["q"], **given, recorder=one):
            model(torch.randn(2, 16, FRAMES, 4, 8), torch.tensor([500.0, 900.0]), x["text"])
        made = module(x["q"], x["c"][:rows], x["text"], **given, recorder=other).tokens
    torch.testing.assert_close(made, taken[-1], atol=1e-5, rtol=1e-4)
    assert one.shares().shape == (1, 3, 2, PAST)
    torch.testing.assert_close(other.shares(), one.shares(), atol=1e-5, rtol=1e-4)


def test_who_changes_whom(module, x) -> None:
    tokens, outputs = run(module, x), []
    for name, value in x.items():
        changed = run(module, x, **{name: value + 1.0})
        assert ((changed - tokens).abs().amax((1, 2)) > 1e-4).all(), f"nothing hears of {name}"
        # samples are independent
        mixed = torch.cat([value[:1], value[1:] + 1.0])
        torch.testing.assert_close(run(module, x, **{name: mixed})[0], tokens[0])
    hooks = [block.register_forward_hook(lambda _b, _a, out: outputs.append(out)) for block in module.wan.blocks]
    try:
        run(module, x)
        # C goes through all blocks but the last, which needs only its keys and values; then Q through all
        assert [out.shape[1] // TOKENS_PER_FRAME for out in outputs] == [PAST] * 2 + [FRAMES] * 3
        context = outputs[:2]
        moved, noise = x["c"].clone(), x["q"] + 1.0
        moved[:, :, 0] += 1.0
        outputs.clear()
        run(module, x, c=moved, q=noise)
        for a, b in zip(context, outputs[:2], strict=True):  # no frame of C sees another one, or Q
            assert torch.equal(a[:, TOKENS_PER_FRAME:], b[:, TOKENS_PER_FRAME:])
            assert differ(a[:, :TOKENS_PER_FRAME], b[:, :TOKENS_PER_FRAME])
    finally:
        for hook in hooks:
            hook.remove()


def test_positions_are_relative_and_matter(module, x) -> None:
    at = {"positions": [0, 1], "context_positions": [-3, -2, -1]}
    with torch.no_grad():
        usual, given = (module(x["q"], x["c"], x["text"], **places).tokens for places in ({}, at))
        moved = module(x["q"], x["c"], x["text"], positions=[20, 21], context_positions=[17, 18, 19]).tokens
        other = module(x["q"], x["c"], x["text"], context_positions=[-9, -2, -1]).tokens
        turned = module(x["q"], x["c"][:, :, [2, 0, 1]], x["text"], context_positions=[-1, -3, -2]).tokens
    assert torch.equal(usual, given) and differ(usual, other, atol=1e-4)
    torch.testing.assert_close(usual, moved, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(usual, turned, atol=1e-5, rtol=1e-4)


def test_each_annotation_has_its_encoder_and_untrained_ones_add_nothing(x) -> None:
    torch.manual_seed(0)
    fresh = QueryModule(dataclasses.replace(CONFIG, cameras=("exact", "estimated")))
    with torch.no_grad():
        nn.init.normal_(fresh.cameras["estimated"].layers[1].weight)
        given = {"cameras": x["cameras"], "context_cameras": x["context_cameras"]}
        plain, exact = (fresh(x["q"], x["c"], x["text"], **poses).tokens for poses in ({}, given))
        estimated = fresh(x["q"], x["c"], x["text"], **given, annotation="estimated").tokens
    assert torch.equal(plain, exact) and differ(plain, estimated, atol=1e-4)


def test_the_backbone_sees_it_in_every_layer(module, x) -> None:
    model, recorder, t = random_transformer(), AttentionRecorder(), torch.tensor([700.0, 300.0])
    with torch.no_grad():
        before = model(x["q"], t, x["text"], return_dict=False)[0]
        memory = module(x["q"], x["c"], x["text"])
        with SelfAttentionConcat(memory, recorder=recorder).attach(model):
            after = model(x["q"], t, x["text"], return_dict=False)[0]
    assert differ(before, after, atol=1e-4)
    assert recorder.shares().shape == (1, 3, 2) and (recorder.shares() > 0).all()


def test_pre_training_reaches_every_weight_and_lowers_the_loss(x) -> None:
    module, latents = make().train(), x["c"][:, :, :FRAMES]
    optimizer, losses = torch.optim.Adam(module.parameters(), lr=3e-3), []
    for _ in range(20):
        optimizer.zero_grad()
        poses = {name: x[name] for name in ("cameras", "context_cameras")}
        loss = query_module_loss(module, module(x["q"], x["c"], x["text"], **poses), latents)
        loss.mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
        optimizer.step()
        losses.append(loss.detach())
    assert losses[0].shape == (2,) and losses[-1].mean() < 0.7 * losses[0].mean()
    with torch.no_grad():
        memory = module(x["q"], x["c"], x["text"])
        made = module.predict(memory.tokens, FRAMES, 4, 8)
        expected = (made - latents).abs().mean((1, 2, 3, 4))
        torch.testing.assert_close(query_module_loss(module, memory, latents), expected)


def test_gradient_checkpointing_changes_nothing(x) -> None:
    gradients, ran = [], []
    for on in (False, True):
        module, past, recorder = make().train(), x["c"].clone().requires_grad_(), AttentionRecorder()
        if on:
            module.wan.enable_gradient_checkpointing()
        ran.append(0)
        for block in module.wan.blocks:
            block.register_forward_pre_hook(lambda *_: ran.append(ran.pop() + 1))
        module(x["q"], past, x["text"], cameras=x["cameras"], recorder=recorder).tokens.square().sum().backward()
        assert past.grad is not None and past.grad.any() and recorder.shares().shape == (1, 3, 2, PAST)
        gradients.append([past.grad, *(p.grad for p in module.parameters() if p.grad is not None)])
    assert ran == [5, 10]  # C through two blocks, Q through three, and once more backwards
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_sizes_are_those_of_the_backbones_first_blocks() -> None:
    backbone, module = WanBackbone.tiny().transformer, QueryModule(QueryModuleConfig.tiny())
    for own, theirs in zip(module.wan.blocks, backbone.blocks, strict=False):
        assert {n: p.shape for n, p in own.named_parameters()} == {n: p.shape for n, p in theirs.named_parameters()}
    assert len(module.wan.blocks) == QueryLayersConfig.tiny().layers
    assert module.wan.patch_embedding.weight.shape == backbone.patch_embedding.weight.shape
    assert differ(module.wan.blocks[0].attn1.to_q.weight, backbone.blocks[0].attn1.to_q.weight)
    for name, millions in (("wan_1_3b", 258), ("wan_5b", 909)):
        with torch.device("meta"):
            large = QueryModule(getattr(QueryModuleConfig, name)())
        assert round(sum(p.numel() for p in large.parameters()) / 1e6) == millions
        assert large.config.dim == getattr(QueryLayersConfig, name)().dim
        assert large.config.layers == getattr(QueryLayersConfig, name)().layers


def test_saved_copied_and_in_half_precision(tmp_path, module, x) -> None:
    module.save_pretrained(tmp_path)
    again, tokens = QueryModule.from_pretrained(tmp_path), run(module, x)
    assert again.config == module.config and torch.equal(run(again, x), tokens)
    twin = copy.deepcopy(module)
    assert torch.equal(run(twin, x), tokens)
    with torch.no_grad():
        for parameter in twin.wan.blocks.parameters():
            parameter.zero_()
    # they share no weights
    assert torch.equal(run(module, x), tokens) and differ(run(twin, x), tokens, rtol=1e-5, atol=1e-8)
    half = again.bfloat16()
    made = run(half, x)
    assert made.dtype == half.predict(made, FRAMES, 4, 8).dtype == torch.bfloat16
    assert (made.float() - tokens).norm() < 0.03 * tokens.norm()


def test_what_does_not_fit_is_named(module, x) -> None:
    def refuse(match: str, **changes) -> None:
        given = {"q": x["q"], "c": x["c"], "text": x["text"], **changes}
        with pytest.raises(InputError, match=match):
            module(given.pop("q"), given.pop("c"), given.pop("text"), **given)

    refuse("multiples of 2 and 2", q=x["q"][..., :3])
    refuse("give 16 channels", q=x["q"][:, :8])
    refuse("at least one frame", q=x["q"][:, :, :0])
    refuse("one per sample", c=x["c"][..., :4])
    refuse("one per sample", c=torch.cat([x["c"], x["c"]]))
    refuse(r"give \[2 or 1, words, 32\]", text=torch.randn(2, 5, 31))
    refuse(r"give \[2 or 1, words, 32\]", text=torch.randn(3, 5, 32))
    refuse("query has 2 frames; give one position", positions=[1])
    refuse("context has 3 frames; give one position", context_positions=[1])
    refuse("context has 0 frames", c=None, context_positions=[1])
    refuse("context has 0 frames", c=None, context_cameras=x["context_cameras"])
    refuse("poses of one sample or of 2", cameras=torch.zeros(3, FRAMES, 12))
    refuse("a position of its own", positions=[1, 1])
    refuse("no encoder for 'guessed' poses", cameras=x["cameras"], annotation="guessed")
    with pytest.raises(InputError, match="layers is 0; give a whole number from 1"):
        QueryModuleConfig(layers=0)
    for size in ((3, 4, 8), (2, 5, 8), (2, 4, 4)):
        with pytest.raises(InputError, match="the size of the same Q"):
            module.predict(torch.zeros(2, FRAMES * TOKENS_PER_FRAME, 48), *size)
    with pytest.raises(InputError, match="WanAttnProcessor"):  # its blocks are not a backbone to attach to
        SelfAttentionConcat(module(x["q"], None, x["text"])).attach(module.wan)
