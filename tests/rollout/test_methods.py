"""Methods of context: what each chooses of a history, and that showing it leaves the model as it was."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from memkit.cameras import Cameras
from memkit.errors import InputError
from memkit.injectors import (
    FrameContext,
    FrameContextConfig,
    QueryLayers,
    QueryLayersConfig,
    QueryModule,
    QueryModuleConfig,
    SelfAttentionConcat,
)
from memkit.rollout import (
    ContextMethod,
    History,
    LearnedContext,
    NewestContext,
    NoContext,
    PackedContext,
    RetrievedContext,
    SeparateContext,
)
from memkit.rollout.base import relative_poses
from tests.helpers.differ import differ
from tests.helpers.random_wan import random_transformer

FRAMES = 2


@pytest.fixture(scope="module")
def model() -> WanTransformer3DModel:
    return random_transformer()


def looking(*degrees: float, at: tuple[float, float] = (0.0, 0.0)) -> Cameras:
    """Cameras [1, n] at one place, turned to the left by so many degrees from +x."""
    yaw = torch.deg2rad(torch.tensor([degrees], dtype=torch.float64))
    eye = torch.tensor([*at, 1.5], dtype=torch.float64).expand(*yaw.shape, 3)
    return Cameras.look_at(eye, eye + torch.stack([yaw.cos(), yaw.sin(), 0 * yaw], dim=-1), 50.0)


def history(cameras: Cameras) -> History:
    count = cameras.c2w.shape[1]
    made = History()
    made.add(torch.randn(1, 16, count, 4, 4, generator=torch.Generator().manual_seed(1)), cameras, list(range(count)))
    return made


def methods(model: WanTransformer3DModel) -> dict[str, ContextMethod]:
    torch.manual_seed(2)
    plain = FrameContext(FrameContextConfig.of(model))
    packed = FrameContext(FrameContextConfig.of(model, ((1, 1), (2, 2)), keep_start=True)).initialise(model)
    module = QueryModule(QueryModuleConfig(layers=1, heads=2, head_dim=24, ffn_dim=64, text_dim=32))
    return {
        "learned": LearnedContext(QueryLayers(QueryLayersConfig(dim=48, blocks=3, layers=2)), 4),
        "cam": RetrievedContext(plain, 3),
        "window": NewestContext(plain, 3),
        "packed": PackedContext(packed, 4),
        "separate": SeparateContext(module, plain, 4),
        "none": NoContext(plain),
    }


def inputs() -> dict[str, Tensor]:
    torch.manual_seed(3)
    x = torch.randn(1, 16, FRAMES, 4, 4)
    return {"hidden_states": x, "timestep": torch.tensor([600.0]), "encoder_hidden_states": torch.randn(1, 5, 32)}


@torch.no_grad()
def run(model, method: ContextMethod, past: History, cameras: Cameras, noise: Tensor | None = None) -> Tensor:
    given = inputs()
    noise = torch.ones(1, 16, FRAMES, 4, 4) if noise is None else noise
    selection = method.choose(past, cameras)
    with method.shown(model, selection=selection, cameras=cameras, noise=noise, text=given["encoder_hidden_states"]):
        return model(**given, return_dict=False)[0]


@pytest.mark.parametrize("name", ["learned", "cam", "window", "packed", "separate", "none"])
@torch.no_grad()
def test_the_past_counts_and_the_model_is_left_as_it_was(model, name) -> None:
    method, cameras = methods(model)[name], looking(0.0, 10.0)
    before = model(**inputs(), return_dict=False)[0]
    past = history(looking(0.0, 5.0, 20.0, 300.0))
    made = run(model, method, past, cameras)
    assert torch.equal(model(**inputs(), return_dict=False)[0], before)
    changed = History()
    changed.add(past.latents + 1.0, past.cameras, past.times)
    other = run(model, method, changed, cameras)
    assert torch.equal(made, other) == (name == "none")
    assert torch.equal(made, before) == (name == "none")  # cameras count for nothing until they are trained
    assert torch.isfinite(run(model, method, History(), cameras)).all()


@torch.no_grad()
def test_context_may_be_noisy_in_sequence_and_not_for_queries(model) -> None:
    cameras, past, given = looking(0.0, 10.0), history(looking(0.0, 5.0, 9.0)), inputs()
    selection, made = past.take(past.newest(3)), {}
    for name, method in methods(model).items():
        for timesteps in (None, torch.zeros(1, 3), torch.tensor([[0.0, 500.0, 900.0]])):
            shown = {"selection": selection, "cameras": cameras, "noise": torch.ones(1, 16, FRAMES, 4, 4)}
            shown |= {"text": given["encoder_hidden_states"], "context_timesteps": timesteps}
            if name in ("learned", "separate") and timesteps is not None:
                with pytest.raises(InputError, match="clean"), method.shown(model, **shown):
                    pass
                continue
            with method.shown(model, **shown):
                made.setdefault(name, []).append(model(**given, return_dict=False)[0])
    for name in ("cam", "window", "packed"):
        clean, zero, noisy = made[name]
        torch.testing.assert_close(clean, zero)
        assert differ(clean, noisy, rtol=1e-5)


@torch.no_grad()
def test_unknown_poses_are_zeros_for_an_encoder_of_their_own(model) -> None:
    known = looking(0.0, 10.0), history(looking(0.0, 5.0, 9.0))
    unposed = History()
    unposed.add(known[1].latents, None, known[1].times)
    selection = unposed.take(unposed.newest(3))
    assert [x.shape for x in relative_poses(None, selection, FRAMES)] == [(1, FRAMES, 12), (1, 3, 12)]
    assert (
        not any(x.any() for x in relative_poses(None, selection, FRAMES)) and relative_poses(None, None, 2)[1] is None
    )
    with pytest.raises(InputError, match="Only one"):
        relative_poses(known[0], selection, FRAMES)
    with pytest.raises(InputError, match="Only one"):
        relative_poses(None, known[1].take(known[1].newest(1)), FRAMES)
    query = QueryLayers(QueryLayersConfig(dim=48, blocks=3, layers=2, cameras=("exact", "none")))
    for parameter in query.cameras["none"].parameters():
        torch.nn.init.ones_(parameter)
    method, given, made = LearnedContext(query, 4), inputs(), {}
    for annotation, cameras, some in (("exact", *known), ("none", None, unposed)):
        shown = {"selection": some.take(some.newest(3)), "cameras": cameras, "noise": torch.ones(1, 16, FRAMES, 4, 4)}
        with method.shown(model, **shown, text=given["encoder_hidden_states"], annotation=annotation):
            made[annotation] = model(**given, return_dict=False)[0]
    assert differ(made["exact"], made["none"], rtol=1e-5)  # the bias counts
    with pytest.raises(InputError, match="by their cameras"):
        methods(model)["cam"].choose(unposed, None)


def test_newest_are_the_newest_and_not_more_than_there_are(model) -> None:
    past = history(looking(*range(6)))
    assert methods(model)["window"].choose(past, looking(0.0, 1.0)).times.tolist() == [[3, 4, 5]]
    assert methods(model)["learned"].choose(past, looking(0.0, 1.0)).times.tolist() == [[2, 3, 4, 5]]
    short = history(looking(0.0))
    assert methods(model)["learned"].choose(short, looking(0.0, 1.0)).times.tolist() == [[0]]
    assert methods(model)["none"].choose(past, looking(0.0, 1.0)) is None


def test_retrieval_takes_what_saw_the_same_and_the_newest(model) -> None:
    past = history(looking(0.0, 90.0, 180.0, 270.0, 90.0 + 5, 180.0 + 5))
    found = methods(model)["cam"].choose(past, looking(90.0, 92.0))
    assert found.times.tolist() == [[1, 4, 5]]
    found = methods(model)["cam"].choose(past, looking(0.0, 2.0))
    assert found.times.tolist() == [[0, 4, 5]]  # one hit; the newest others fill up
    found = methods(model)["cam"].choose(history(looking(0.0, 1.0, 2.0, 3.0, 180.0)), looking(0.0, 2.0))
    assert 4 in found.times[0].tolist()  # where hits abound too


def test_retrieval_is_each_sample_s_own(model) -> None:
    rows = [looking(0.0, 90.0, 180.0, 270.0), looking(180.0, 270.0, 0.0, 90.0)]
    both = Cameras(*(torch.cat([getattr(row, f) for row in rows]) for f in ("c2w", "intrinsics")))
    past = History()
    past.add(torch.randn(2, 16, 4, 4, 4), both, [0, 1, 2, 3])
    ask = Cameras(
        *(getattr(looking(0.0), f).expand(2, -1, *getattr(looking(0.0), f).shape[2:]) for f in ("c2w", "intrinsics"))
    )
    method = RetrievedContext(FrameContext(FrameContextConfig.of(model)), 2)
    assert method.choose(past, ask).times.tolist() == [[0, 3], [2, 3]]


def test_poses_are_relative_to_the_first_camera_of_the_chunk(model) -> None:
    own, past = looking(30.0, 50.0), history(looking(0.0, 200.0))
    selection = past.take(past.newest(2))
    near, far = relative_poses(own, selection, 2)
    identity = torch.eye(4)[:3].flatten()
    torch.testing.assert_close(near[0, 0], identity)
    turn, move = looking(77.0).c2w[0, 0], torch.eye(4, dtype=torch.float64)
    move[:3, 3] = torch.tensor([3.0, -1.0, 0.5])
    moved = Cameras(turn @ move @ own.c2w, own.intrinsics)
    assert selection.cameras is not None
    selection = selection._replace(cameras=Cameras(turn @ move @ selection.cameras.c2w, selection.cameras.intrinsics))
    for a, b in zip(relative_poses(moved, selection, 2), (near, far), strict=True):
        torch.testing.assert_close(a, b)
    assert math.isclose(float(near[0, 1, 2]), math.sin(math.radians(-20.0)), abs_tol=1e-6)
    assert relative_poses(own, None, 2)[1] is None


@torch.no_grad()
def test_a_separate_module_s_tokens_are_memory_and_the_past_is_nowhere_else(model) -> None:
    method, past, cameras = methods(model)["separate"], history(looking(0.0, 5.0)), looking(0.0, 10.0)
    given, selection = inputs(), past.take(past.newest(2))
    own, others = relative_poses(cameras, selection, FRAMES)
    noise = torch.ones(1, 16, FRAMES, 4, 4)
    memory = method.module(
        noise, selection.latents, given["encoder_hidden_states"], cameras=own, context_cameras=others
    )
    with SelfAttentionConcat(memory).attach(model):
        expected = model(**given, return_dict=False)[0]
    torch.testing.assert_close(run(model, method, past, cameras), expected)


def test_queries_start_from_the_noise_that_is_given(model) -> None:
    past, cameras = history(looking(0.0, 5.0)), looking(0.0, 10.0)
    from_noise = LearnedContext(QueryLayers(QueryLayersConfig(dim=48, blocks=3, layers=2, query="noise")), 4)
    for method in (from_noise, methods(model)["separate"]):
        a = run(model, method, past, cameras)
        b = run(model, method, past, cameras, noise=-torch.ones(1, 16, FRAMES, 4, 4))
        assert differ(a, b)
