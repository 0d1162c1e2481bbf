"""FrameContext against the stock model on all frames at once, and against a dense reference of packed tokens."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from diffusers import WanTransformer3DModel
from jaxtyping import TypeCheckError
from torch import Tensor

from memkit.backbones.rotary import rotary_at, rotate
from memkit.cameras import CameraPath, Cameras
from memkit.errors import InputError, MemkitError
from memkit.generation import GuidedMemory, conditioning_frames
from memkit.injectors import (
    FrameContext,
    FrameContextConfig,
    KVCache,
    QueryLayers,
    QueryLayersConfig,
    SelfAttentionConcat,
    TeacherForcing,
)
from memkit.memory import Memory
from memkit.positions import PMRoPE, PMRoPEConfig
from tests.helpers.random_wan import random_pipeline, random_transformer

CONFIG = FrameContextConfig(dim=48, blocks=3)
FRAMES, PAST, HEIGHT, WIDTH = 2, 6, 2, 3  # in tokens
CELLS = HEIGHT * WIDTH
PACKED = dataclasses.replace(CONFIG, packing=((1, 1), (2, 2), (4, 4)))
CLOSE = {"atol": 1e-5, "rtol": 0}


@pytest.fixture(scope="module")
def model() -> WanTransformer3DModel:
    return random_transformer()


@pytest.fixture(scope="module")
def given() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {
        "p": torch.randn(2, 16, FRAMES, 2 * HEIGHT, 2 * WIDTH), "c": torch.randn(2, 16, PAST, 2 * HEIGHT, 2 * WIDTH),
        "t": torch.tensor([700.0, 300.0]), "text": torch.randn(2, 5, 32),
        "cameras": torch.randn(2, FRAMES, 12), "context_cameras": torch.randn(2, PAST, 12),
    }  # fmt: skip


def context(config: FrameContextConfig = CONFIG, cameras: float = 0.0) -> FrameContext:
    """With packing convolutions unlike the model's, and unlike each other."""
    torch.manual_seed(3)
    frames = FrameContext(config)
    for parameter in frames.cameras.parameters():
        torch.nn.init.normal_(parameter, std=cameras)
    for parameter in frames.packers.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return frames


def call(model, x: dict[str, Tensor], **changes: Tensor) -> Tensor:
    x = {**x, **changes}
    return model(x["p"], x["t"], x["text"], return_dict=False)[0]


def run(model, frames: FrameContext, x: dict[str, Tensor], latents: Tensor | None, **arguments) -> Tensor:
    with frames.attach(model) as attached, attached.chunk(latents, **arguments):
        return call(model, x)


def poses(x: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x[name] for name in ("cameras", "context_cameras")}


def whole(model, x: dict[str, Tensor], past: Tensor | None = None) -> Tensor:
    """The stock model on context and P as one video, with timesteps a token; ``past`` [2,PAST] are the context's."""
    times = torch.cat([torch.zeros(2, PAST) if past is None else past, x["t"][:, None].expand(2, FRAMES)], dim=1)
    video = torch.cat([x["c"], x["p"]], dim=2)
    return call(model, x, p=video, t=times.repeat_interleave(CELLS, dim=1))[:, :, PAST:]


# -- references --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("noisy", [False, True])
@torch.no_grad()
def test_it_is_the_stock_model_on_all_frames(model, given, rows, noisy) -> None:
    x = {**given, "c": given["c"][:rows].expand(2, -1, -1, -1, -1)}
    past = torch.rand(rows, PAST) * 1000 if noisy else None
    expected = whole(model, x, None if past is None else past.expand(2, -1))
    # rotation knows differences of positions alone, so −n…F−1 is as good as 0…n+F−1
    for shifted in ({}, {"context_positions": range(PAST), "positions": range(PAST, PAST + FRAMES)}):
        made = run(model, context(), x, given["c"][:rows], context_timesteps=past, **shifted)
        torch.testing.assert_close(made, expected, **CLOSE)
    assert not torch.allclose(expected, call(model, x), atol=1e-3)


def groups_of(config: FrameContextConfig) -> list[tuple[int, list[int]]]:
    """Written out: the groups of six frames."""
    groups = [(4, [0, 0, 1, 2]), (2, [3, 4]), (1, [5])] if config.packing else [(1, [i]) for i in range(PAST)]
    return [(1, [0]), (4, [1, 1, 1, 2]), *groups[1:]] if config.keep_start else groups


def dense(model, frames: FrameContext, x: dict[str, Tensor], at: list[int], past: Tensor, cameras: bool) -> Tensor:
    """Every token made by hand, and plain softmax over all of them."""
    tokens, cos, sin, times, who = [], [], [], [], []
    tables = [rotary_at(model.rope, [p], HEIGHT, WIDTH) for p in [*at, *range(FRAMES)]]
    for scale, members in groups_of(frames.config):
        conv = frames.packers[str(scale)] if frames.config.packing else model.patch_embedding
        for i in range(0, HEIGHT, scale):
            for j in range(0, WIDTH, scale):
                rows = [min(n, 2 * HEIGHT - 1) for n in range(2 * i, 2 * (i + scale))]
                columns = [min(n, 2 * WIDTH - 1) for n in range(2 * j, 2 * (j + scale))]
                window = x["c"][:, :, members][:, :, :, rows][..., columns]
                tokens.append(torch.einsum("bcthw,dcthw->bd", window, conv.weight) + conv.bias)
                cells = [
                    min(i + a, HEIGHT - 1) * WIDTH + min(j + b, WIDTH - 1) for a in range(scale) for b in range(scale)
                ]
                for kind, table in ((cos, 0), (sin, 1)):
                    kind.append(torch.stack([tables[m][table][0, n, 0] for m in members for n in cells]).mean(0))
                times.append(past[:, members].mean(1))
                who.append(members)
    own = model.patch_embedding(x["p"]).flatten(2).mT
    hidden = torch.cat([torch.stack(tokens, dim=1), own], dim=1)
    cos, sin = (
        torch.cat([torch.stack(kind), *(t[i][0, :, 0] for t in tables[PAST:])])[None, :, None]
        for i, kind in enumerate((cos, sin))
    )
    times = torch.cat([torch.stack(times, dim=1), x["t"][:, None].expand(-1, own.shape[1])], dim=1)
    temb, modulation, text, _ = model.condition_embedder(times.flatten(), x["text"], timestep_seq_len=times.shape[1])
    modulation = modulation.unflatten(2, (6, -1))
    for i, block in enumerate(model.blocks):
        shift, scale, gate, c_shift, c_scale, c_gate = (block.scale_shift_table[None] + modulation).unbind(2)
        h = block.norm1(hidden) * (1 + scale) + shift
        if cameras:
            layer = frames.cameras["exact"].layers[i]
            added = [layer(x["context_cameras"][:, members]).mean(1) for members in who]
            added += [layer(x["cameras"][:, n // CELLS]) for n in range(own.shape[1])]
            h = h + torch.stack(added, dim=1)
        attn = block.attn1
        q, k, v = (
            f.unflatten(2, (2, -1)) for f in (attn.norm_q(attn.to_q(h)), attn.norm_k(attn.to_k(h)), attn.to_v(h))
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        weights = (torch.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5).softmax(-1)
        hidden = hidden + attn.to_out[0](torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2)) * gate
        hidden = hidden + block.attn2(block.norm2(hidden), text, None, None)
        hidden = hidden + block.ffn(block.norm3(hidden) * (1 + c_scale) + c_shift) * c_gate
    shift, scale = (model.scale_shift_table[None] + temb[:, :, None]).unbind(2)
    out = model.proj_out(model.norm_out(hidden) * (1 + scale) + shift)[:, -own.shape[1] :]
    out = out.reshape(2, FRAMES, HEIGHT, WIDTH, 1, 2, 2, -1).permute(0, 7, 1, 4, 2, 5, 3, 6)
    return out.flatten(6, 7).flatten(4, 5).flatten(2, 3)


@pytest.mark.parametrize("cameras", [False, True])
@pytest.mark.parametrize("config", [CONFIG, PACKED, dataclasses.replace(PACKED, keep_start=True)])
@torch.no_grad()
def test_packed_tokens_positions_cameras_and_times_are_those_made_by_hand(model, given, config, cameras) -> None:
    frames, at = context(config, cameras=0.3), [-40, -3, 7, 1, -2, 2000]
    arguments = poses(given) if cameras else {}
    for past in (None, torch.rand(2, PAST) * 1000):
        made = run(model, frames, given, given["c"], context_positions=at, context_timesteps=past, **arguments)
        expected = dense(model, frames, given, at, torch.zeros(2, PAST) if past is None else past, cameras)
        torch.testing.assert_close(made, expected, **CLOSE)


@torch.no_grad()
def test_initialised_a_token_is_the_patch_embedding_of_the_average(model, given) -> None:
    frames = FrameContext(PACKED).initialise(model)
    video = torch.randn(1, 16, 4, 16, 8)
    constant = torch.randn(1, 16, 1, 1, 1).expand(1, 16, 4, 16, 16)
    alike = model.patch_embedding(constant)[:, :, :1, :1, :1]
    for scale in (1, 2, 4):
        conv = frames.packers[str(scale)]
        torch.testing.assert_close(conv(video), model.patch_embedding(torch.nn.functional.avg_pool3d(video, scale)))
        assert (conv(constant) - alike).abs().max() < 1e-4
    flat = FrameContext(dataclasses.replace(CONFIG, packing=((PAST, 1),))).initialise(model)
    assert torch.equal(run(model, flat, given, given["c"]), run(model, context(), given, given["c"]))


@torch.no_grad()
def test_a_start_frame_is_kept_as_it_is_where_all_else_is_packed(model, given) -> None:
    frames = FrameContext(dataclasses.replace(CONFIG, packing=((2, 2),), keep_start=True)).initialise(model)
    flat = context()
    made = run(model, frames, given, given["c"][:, :, :1])
    assert torch.equal(made, run(model, flat, given, given["c"][:, :, :1]))
    assert not torch.allclose(made, run(model, frames, given, given["c"]), atol=1e-3)


@torch.no_grad()
def test_frames_beyond_the_packing_are_left_out_and_counted(model, given) -> None:
    frames = context(dataclasses.replace(PACKED, packing=((1, 1), (2, 2)), keep_start=True), cameras=0.3)
    times = torch.rand(1, PAST) * 1000
    kept = [0, 3, 4, 5]
    with frames.attach(model) as attached:
        chunk = attached.chunk(given["c"], context_timesteps=times, **poses(given))
        assert chunk.left_out == 2
        with chunk:
            made = call(model, given)
        moved = given["c"].clone()
        moved[:, :, 1:3] += 1.0
        with attached.chunk(moved, context_timesteps=times, **poses(given)):
            assert torch.equal(call(model, given), made)
        less = {"cameras": given["cameras"], "context_cameras": given["context_cameras"][:, kept]}
        at = {"context_positions": [-6, -3, -2, -1], "context_timesteps": times[:, kept]}
        with attached.chunk(given["c"][:, :, kept], **less, **at) as chunk:
            assert torch.equal(call(model, given), made) and chunk.left_out == 0


# -- what it leaves alone ----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_with_nothing_given_and_after_detaching_it_is_the_stock_model(model, given) -> None:
    before = call(model, given)
    with context(PACKED, cameras=0.3).attach(model) as attached:
        for nothing in (None, given["c"][:, :, :0]):
            with attached.chunk(nothing, context_cameras=None if nothing is None else torch.zeros(1, 0, 12)):
                assert torch.equal(call(model, given), before)
        with attached.chunk(given["c"], history_guidance=0):
            assert torch.equal(call(model, given), before)
        with attached.chunk(given["c"], history_guidance=1.5, **poses(given)):
            assert not torch.allclose(call(model, given), before, atol=1e-3)
    assert torch.equal(call(model, given), before)
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks


@torch.no_grad()
def test_poses_of_the_prediction_need_no_context(model, given) -> None:
    frames = context(cameras=0.3)
    alone = run(model, frames, given, None, cameras=given["cameras"])
    assert not torch.allclose(alone, call(model, given), atol=1e-3)
    # as beside a context that attention cannot tell apart: the frames themselves, clean or not, at their own places
    twice = run(
        model, frames, given, given["p"], cameras=given["cameras"], context_cameras=given["cameras"],
        context_positions=range(FRAMES), context_timesteps=given["t"][:, None].expand(2, FRAMES),
    )  # fmt: skip
    torch.testing.assert_close(alone, twice, **CLOSE)
    assert torch.equal(run(model, context(), given, None, cameras=given["cameras"]), call(model, given))  # untrained


@torch.no_grad()
def test_poses_may_be_given_of_the_context_alone(model, given) -> None:
    frames, zero = context(cameras=0.3), {name: torch.zeros_like(x) for name, x in poses(given).items()}
    for layer in frames.cameras["exact"].layers:  # then a pose of zeros adds nothing
        layer.bias.zero_()
    for name in zero:
        made = run(model, frames, given, given["c"], **{name: given[name]})
        torch.testing.assert_close(made, run(model, frames, given, given["c"], **{**zero, name: given[name]}))


# -- history guidance --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dictionary", [False, True])
@torch.no_grad()
def test_history_guidance_is_its_formula_at_its_cost(model, given, dictionary) -> None:
    frames, runs = context(cameras=0.3), []
    hook = model.norm_out.register_forward_hook(lambda *_: runs.append(1))
    try:
        shown, without = (run(model, frames, given, c, cameras=given["cameras"]) for c in (given["c"], None))
        for omega, cost in ((0, 1), (1, 1), (1.5, 2), (-0.5, 2)):
            runs.clear()
            chunk = {"cameras": given["cameras"], "history_guidance": omega}
            with frames.attach(model) as attached, attached.chunk(given["c"], **chunk):
                out = model(given["p"], given["t"], given["text"], return_dict=dictionary)
            assert hasattr(out, "sample") is dictionary and len(runs) == cost
            torch.testing.assert_close(out[0], without + omega * (shown - without), **CLOSE)
    finally:
        hook.remove()


@torch.no_grad()
def test_the_stock_pipeline_guides_each_branch_of_the_text(given) -> None:
    pipe, frames = random_pipeline(), context()
    pipe.set_progress_bar_config(disable=True)
    words, none, start = given["text"][:1], given["text"][1:], torch.randn(1, 16, 2, 4, 4)
    c = given["c"][:1, ..., :4]

    def guided(x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        shown, without = (run(pipe.transformer, frames, {"p": x, "t": t, "text": text}, past) for past in (c, None))
        return without + 1.5 * (shown - without)

    with frames.attach(pipe.transformer) as attached, attached.chunk(c, history_guidance=1.5):
        made = pipe(
            prompt_embeds=words, negative_prompt_embeds=none, latents=start, height=32, width=32, num_frames=5,
            num_inference_steps=3, guidance_scale=4.0, output_type="latent",
        ).frames  # fmt: skip
    pipe.scheduler.set_timesteps(3)
    x = start
    for t in pipe.scheduler.timesteps:
        v, empty = (guided(x, t.expand(1), text) for text in (words, none))
        x = pipe.scheduler.step(empty + 4.0 * (v - empty), t, x, return_dict=False)[0]
    torch.testing.assert_close(made, x, atol=1e-4, rtol=0)


# -- with other parts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("omega", [1.0, 1.5])
@torch.no_grad()
def test_known_frames_in_either_order(model, given, omega) -> None:
    known = torch.randn(1, 16, 1, 4, 6)
    x = {**given, "p": torch.cat([known.expand(2, -1, -1, -1, -1), given["p"][:, :, 1:]], dim=2)}
    times = given["t"][:, None].repeat(1, FRAMES * CELLS)
    times[:, :CELLS] = 0
    shown = call(model, x, p=torch.cat([x["c"], x["p"]], 2), t=torch.cat([torch.zeros(2, PAST * CELLS), times], 1))
    without = call(model, x, t=times)
    expected = without + omega * (shown[:, :, PAST:] - without)
    frames = context()
    with conditioning_frames(known, model):
        torch.testing.assert_close(run(model, frames, given, given["c"], history_guidance=omega), expected, **CLOSE)
    with (
        frames.attach(model) as attached,
        attached.chunk(given["c"], history_guidance=omega),
        conditioning_frames(known, model),
    ):
        torch.testing.assert_close(call(model, given), expected, **CLOSE)
        for t in (given["t"][:, None], given["t"][:, None].expand(2, FRAMES * CELLS)):
            torch.testing.assert_close(call(model, given, t=t), expected, **CLOSE)


@torch.no_grad()
def test_memory_tokens_in_either_order(model, given) -> None:
    memory, frames = SelfAttentionConcat(Memory(torch.randn(2, 4, 48))), context(cameras=0.3)
    with memory.attach(model):
        expected = whole(model, given)
        at = {"context_positions": range(PAST), "positions": range(PAST, PAST + FRAMES)}  # memory has no position
        torch.testing.assert_close(run(model, frames, given, given["c"], **at), expected, **CLOSE)
        one = run(model, frames, given, given["c"])
        posed = run(model, frames, given, given["c"], **poses(given))
    with frames.attach(model) as attached, memory.attach(model), attached.chunk(given["c"]):
        assert torch.equal(call(model, given), one)
    alone = run(model, frames, given, given["c"])
    assert not torch.allclose(one, alone, atol=1e-3) and not torch.allclose(one, posed, atol=1e-3)
    with SelfAttentionConcat(Memory(torch.randn(2, 4, 48), torch.zeros(2, 4, dtype=torch.bool))).attach(model):
        assert torch.equal(run(model, frames, given, given["c"]), alone)


@pytest.mark.parametrize("config", [CONFIG, PACKED])
def test_gradient_checkpointing_gives_the_same_gradients(given, config) -> None:
    gradients = []
    for checkpointing in (False, True):
        model, frames = random_transformer().train(), context(config, cameras=0.3)
        if checkpointing:
            model.enable_gradient_checkpointing()
        latents = given["c"].clone().requires_grad_()
        with frames.attach(model) as attached:
            with attached.chunk(latents, **poses(given)):
                loss = call(model, given).square().sum()
            with attached.chunk(None):  # what is open meanwhile does not matter
                loss.backward()
        assert all(p.grad is not None and p.grad.any() for p in frames.parameters())
        assert latents.grad is not None and latents.grad.any()
        gradients.append([latents.grad, *(p.grad for p in [*frames.parameters(), *model.parameters()])])
    for a, b in zip(*gradients, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_both_experts_and_half_precision(model, given) -> None:
    other, frames = random_transformer(5), context(PACKED, cameras=0.3)
    expected = [run(m, frames, given, given["c"], **poses(given)) for m in (model, other)]
    with frames.attach(model, other) as attached, attached.chunk(given["c"], **poses(given)):
        assert all(torch.equal(call(m, given), e) for m, e in zip((model, other), expected, strict=True))
    half, x = random_transformer().bfloat16(), {n: v.bfloat16() for n, v in given.items()}
    for own in (frames, context(PACKED, cameras=0.3).bfloat16()):
        made = run(half, own, x, given["c"], **poses(given))
        assert made.dtype == torch.bfloat16
        torch.testing.assert_close(made.float(), expected[0], atol=0.1, rtol=0.05)


def test_saved_and_loaded(tmp_path, model, given) -> None:
    frames = context(dataclasses.replace(PACKED, keep_start=True, cameras=("exact", "estimated")), cameras=0.3)
    frames.save_pretrained(tmp_path)
    again = FrameContext.from_pretrained(tmp_path)
    assert again.config == frames.config
    with torch.no_grad():
        for kind in frames.config.cameras:
            arguments = {**poses(given), "annotation": kind}
            made = [run(model, x, given, given["c"], **arguments) for x in (frames, again)]
            assert torch.equal(*made)


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_what_does_not_fit_a_configuration_or_a_model_is_named(model) -> None:
    assert FrameContextConfig.of(model) == CONFIG
    for changes, message in (
        ({"packing": ((3, 2),)}, "multiple of the scale"),
        ({"keep_start": True}, "goes with a packing"),
        ({"patch_size": (2, 2, 2)}, "single frames"),
    ):
        with pytest.raises(InputError, match=message):
            dataclasses.replace(CONFIG, **changes)
    for changes in ({"dim": 64}, {"blocks": 4}, {"channels": 36}, {"patch_size": (1, 4, 4)}):
        frames = FrameContext(dataclasses.replace(PACKED, **changes))
        for use in (frames.attach, frames.initialise):
            with pytest.raises(InputError, match=r"\(48, 3, 16, \(1, 2, 2\)\)"):
                use(model)
    with pytest.raises(InputError, match="call initialise"):
        FrameContext(PACKED).attach(model)
    frames = context()
    for models in ((), (model, model)):
        with pytest.raises(InputError, match="each once"):
            frames.attach(*models)
    with frames.attach(model), pytest.raises(InputError, match="attached already"):
        context().attach(model)


def test_what_does_not_fit_a_chunk_is_named(model, given) -> None:
    frames, c = context(), given["c"]
    with frames.attach(model) as attached:
        with pytest.raises(MemkitError, match="outside a chunk"):
            call(model, given)
        for bad in (
            {"context_positions": [1]},
            {"context_cameras": torch.zeros(1, 1, 12)},
            {"context_timesteps": torch.zeros(1, 1)},
        ):
            with pytest.raises(InputError, match="6 frames"):
                attached.chunk(c, **bad)
        with pytest.raises(InputError, match="0 frames"):
            attached.chunk(None, context_cameras=given["context_cameras"])
        with pytest.raises(InputError, match="no encoder"):
            attached.chunk(c, cameras=given["cameras"], annotation="guessed")
        with pytest.raises(InputError, match="finite"):
            attached.chunk(c, history_guidance=float("nan"))
        # the run-time check of types looks at one item by chance, and is first where that is the wrong one
        with pytest.raises((InputError, TypeCheckError), match="whole numbers|Type-check"):
            attached.chunk(c, context_positions=[0.5, *range(5)])
        for latents, arguments, message in (
            (c[:, :, :, :2], {}, "same channels"),
            (c[:, :8], {}, "same channels"),
            (c[:1].expand(3, -1, -1, -1, -1), {}, "same channels"),
            (c, {"positions": [0]}, "2 frames"),
            (None, {"cameras": given["cameras"][:, :1]}, "2 frames"),
            (c, {"cameras": torch.zeros(3, FRAMES, 12)}, "poses of 3 clips"),
            (c, {"context_cameras": torch.zeros(3, PAST, 12)}, "poses of 3 clips"),
            (c, {"context_timesteps": torch.zeros(3, PAST)}, "timesteps of 3 clips"),
        ):
            with attached.chunk(latents, **arguments), pytest.raises(InputError, match=message):
                call(model, given)
        with attached.chunk(c), pytest.raises(MemkitError, match="do not nest"):
            attached.chunk(c).__enter__()
        with attached.chunk(c), torch.no_grad():  # and all is well afterwards
            torch.testing.assert_close(call(model, given), whole_without(frames, model, given), **CLOSE)


def whole_without(frames: FrameContext, model, given) -> Tensor:
    """`whole` on a model of the same weights that nothing is attached to."""
    other = random_transformer()
    other.load_state_dict(model.state_dict())
    return whole(other, given)


@torch.no_grad()
def test_what_else_places_the_frames_is_refused(model, given) -> None:
    before = call(model, given)
    query = QueryLayers(QueryLayersConfig(dim=48, blocks=3, layers=2))
    for other in (KVCache(1 << 20), query, TeacherForcing()):
        for pair in ((context(), other), (other, context())):
            with pair[0].attach(model), pytest.raises(InputError, match="positions in time"):
                pair[1].attach(model)
    assert torch.equal(call(model, given), before)


@torch.no_grad()
@pytest.mark.parametrize("cameras_first", [True, False])
def test_camera_positions_know_no_frames_of_a_context(model, given, cameras_first) -> None:
    before, frames, cameras = call(model, given), context(), PMRoPE(PMRoPEConfig.of(model))
    eye = Cameras(torch.eye(4).repeat(1, FRAMES, 1, 1), torch.tensor([1.0, 1.0, 0.5, 0.5]).repeat(1, FRAMES, 1))
    pair = (cameras, frames) if cameras_first else (frames, cameras)
    with pair[0].attach(model) as a, pair[1].attach(model) as b:
        mine, its = (b, a) if cameras_first else (a, b)
        with (
            mine.chunk(given["c"]),
            its.chunk(CameraPath.of(eye)),
            pytest.raises(MemkitError, match="camera positions"),
        ):
            call(model, given)
    assert torch.equal(call(model, given), before)


@torch.no_grad()
def test_guided_memory_goes_along_but_for_two_guidances_at_once(model, given) -> None:
    memory, frames = SelfAttentionConcat(Memory(torch.randn(2, 4, 48))), context()
    own = run(model, frames, given, given["c"])
    with memory.attach(model):
        shown = run(model, frames, given, given["c"])
    with frames.attach(model) as attached, GuidedMemory(memory, 2.0).attach(model):
        with attached.chunk(given["c"]), model.cache_context("cond"):
            torch.testing.assert_close(call(model, given), own + 2.0 * (shown - own), **CLOSE)
        with (
            attached.chunk(given["c"], history_guidance=1.5),
            model.cache_context("cond"),
            pytest.raises(MemkitError, match="one guidance or the other"),
        ):
            call(model, given)
