"""Mechanisms of the probes: what each shows of the past, and that the model is the same afterwards."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import WanTransformer3DModel

from memkit.cameras import Cameras
from memkit.errors import InputError
from memkit.flow import add_noise
from memkit.injectors import SelfAttentionConcat, TeacherForcing
from memkit.injectors.camera_encoder import CameraEncoder
from memkit.memory import Memory
from memkit.probes import MECHANISMS, Mechanism, ProbeBatch, ProbeSettings, import_mechanism, make_probe
from memkit.probes.mechanisms import CachedKeys, CarriedState, FramesInView, LearnedQueries, TeacherForced, Window
from memkit.probes.mechanisms.forced import frame_graph
from memkit.probes.training import predict, train

SETTINGS = ProbeSettings(blocks=2, heads=2, batch=4)
CAMERAS = (
    "window",
    "newest 4",
    "fov",
    "framepack",
    "queries (noise)",
    "queries (copy)",
    "query module",
    "kv cache, pm-rope",
)


@pytest.fixture(scope="module")
def model() -> WanTransformer3DModel:
    model = SETTINGS.model(0)
    with torch.no_grad():
        for block in model.blocks:
            block.scale_shift_table.normal_()
    return model


def built(name: str, model: WanTransformer3DModel, probe: str, **knobs) -> tuple[Mechanism, ProbeBatch, torch.Tensor]:
    """A mechanism with random cameras, a batch and noise."""
    task = make_probe(probe, **knobs)
    torch.manual_seed(1)
    mechanism = MECHANISMS[name](model, task)
    encoder = CameraEncoder(48, 2)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter)
    mechanism.take_cameras(encoder)
    if isinstance(mechanism, CachedKeys | CarriedState):  # they begin as no change
        for parameter in mechanism.parameters():
            torch.nn.init.normal_(parameter)
    batch = task.sample(torch.Generator().manual_seed(2), 3)
    return mechanism, batch, torch.randn(batch.target.shape)


def shuffled_past(batch: ProbeBatch, frames: slice) -> ProbeBatch:
    """The same batch with other latents in some of its past frames."""
    memory = batch.memory.clone()
    memory[:, :, frames] = torch.randn_like(memory[:, :, frames])
    return replace(batch, memory=memory)


@pytest.mark.parametrize("probe", ["occlusion", "law"])
@pytest.mark.parametrize("name", MECHANISMS)
def test_each_mechanism_shows_the_past_and_leaves_the_model_as_it_was(model, name, probe):
    mechanism, batch, noise = built(name, model, probe)
    before = {key: x.clone() for key, x in model.state_dict().items()}
    shown, without, another = (
        predict(model, mechanism, each, noise)
        for each in (batch, batch.without_memory(), shuffled_past(batch, slice(None)))
    )
    assert shown.shape == batch.target.shape and shown.isfinite().all() and without.isfinite().all()
    asked = (slice(None), slice(None), slice(batch.given, None))
    assert torch.equal(shown[asked], without[asked]) == (name == "none")
    assert torch.equal(shown[asked], another[asked]) == (name == "none")
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    assert all(torch.equal(x, before[key]) for key, x in model.state_dict().items())


@pytest.mark.parametrize("name", CAMERAS)
def test_the_chunk_has_its_cameras_and_the_past_has_its_own(model, name):
    mechanism, batch, noise = built(name, model, "recall", distance=0)
    plain = predict(model, mechanism, batch, noise)
    turned = replace(batch, memory_cameras=Cameras(batch.memory_cameras.c2w.flip(1), batch.memory_cameras.intrinsics))
    assert not torch.allclose(plain, predict(model, mechanism, turned, noise), atol=1e-4)
    turned = replace(batch, cameras=Cameras(batch.cameras.c2w.flip(1), batch.cameras.intrinsics))
    assert not torch.allclose(plain, predict(model, mechanism, turned, noise), atol=1e-4)


def test_only_the_newest_frames_are_in_the_window(model):
    mechanism, batch, noise = built("newest 4", model, "recall", distance=0, distractors=4)
    plain = predict(model, mechanism, batch, noise)
    assert torch.equal(plain, predict(model, mechanism, shuffled_past(batch, slice(None, -4)), noise))
    assert not torch.equal(plain, predict(model, mechanism, shuffled_past(batch, slice(-4, -3)), noise))
    assert mechanism.held_bytes(batch) == 4 * (64 + 12) * 4


def test_the_rule_of_views_selects_the_frame_of_each_place(model):
    batch = make_probe("recall").sample(torch.Generator().manual_seed(2), 8)
    selected = FramesInView(model, make_probe("recall")).selected(batch)
    assert selected.memory.shape[2] == 2 and selected.memory_times == batch.memory_times[-2:]
    for sample in range(8):
        shown = {tuple(x.flatten().tolist()) for x in selected.memory[sample].unbind(1)}
        assert shown == {tuple(x.flatten().tolist()) for x in batch.target[sample].unbind(1)}


def test_with_depth_the_rule_selects_what_saw_the_places(model):
    probe = make_probe("occlusion", depth=True)
    batch = probe.sample(torch.Generator().manual_seed(2), 8)
    selected = FramesInView(model, probe, depth=True).selected(batch)
    for sample in range(8):
        shown = {tuple(x.flatten().tolist()) for x in selected.memory[sample].unbind(1)}
        assert shown == {tuple(x.flatten().tolist()) for x in batch.target[sample].unbind(1)}


def test_gaps_reach_the_mechanisms(model):
    for name in ("window", "queries (copy)", "kv cache"):
        mechanism, batch, noise = built(name, model, "evolve")
        later = replace(batch, times=tuple(time + 3 for time in batch.times))
        assert not torch.equal(predict(model, mechanism, batch, noise), predict(model, mechanism, later, noise)), name


def test_teacher_forcing_trains_what_the_cache_shows(model):
    """Without a curriculum, the chunk's velocity in the noisy stream is that after its past is written to a cache."""
    probe = make_probe("evolve", seen=3, hidden=1)
    batch, mechanism = probe.sample(torch.Generator().manual_seed(2), 2), TeacherForced(model, probe)
    latents, graph = torch.cat([batch.memory, batch.target], dim=2), frame_graph(batch)
    noise, sigma = torch.randn(latents.shape), torch.tensor([0.4, 1.0])
    with torch.no_grad(), TeacherForcing().attach(model) as attached, attached.chunk(graph) as step:
        forced = step.velocity(model, latents, noise, sigma, batch.text)[:, :, -2:]
        noisy = add_noise(batch.target, noise[:, :, -2:], sigma)
        shown = mechanism.shown(model, batch.concealed())
    with torch.no_grad():
        streamed = mechanism.velocity(model, batch, noisy, sigma, shown)
    assert torch.allclose(forced, streamed, atol=1e-5) and not torch.allclose(forced, forced.flip(0), atol=1e-2)
    roles = [node.role for node in graph.nodes]
    assert roles == ["seed", "anchor", "anchor", "degraded", "recovery"] and graph.nodes[-1].time == batch.times[0]


@pytest.mark.parametrize("part", [0, 1])
def test_a_part_of_the_encoded_memory_can_be_that_of_another_sample(model, part):
    mechanism, batch, noise = built("encoder", model, "law", clips=2)
    other, hidden = batch.with_memory_of(torch.tensor([1, 2, 0])), batch.concealed()

    def shown(another: ProbeBatch) -> torch.Tensor:
        mixed = mechanism.shown_with(model, hidden, another.concealed(), mechanism.parts[part])
        return predict(model, mechanism, batch, noise, mixed)

    own = predict(model, mechanism, batch, noise)
    assert torch.allclose(shown(batch), own, atol=1e-6) and not torch.allclose(shown(other), own, atol=1e-4)
    with torch.no_grad():
        branches = [list(mechanism.encoder.low_and_high(mechanism.encoder(x.clips), 2)) for x in (batch, other)]
    branches[0][part] = branches[1][part]
    mixed = shown(other)
    with SelfAttentionConcat(Memory(torch.cat(branches[0], dim=1))).attach(model):
        wanted = predict(model, mechanism, batch, noise, mechanism.own_cameras(model, hidden))
    assert torch.allclose(mixed, wanted, atol=1e-5), (mixed - wanted).abs().max()


def test_a_frozen_model_does_not_learn_and_its_encoder_does(model):
    mechanism, batch, _ = built("encoder", model, "law")
    before = {key: x.clone() for key, x in model.state_dict().items()}
    own = {key: x.clone() for key, x in mechanism.encoder.state_dict().items()}
    probe = make_probe("law")
    train(model, mechanism, probe.batches("train", 0, 2), SETTINGS, 2, 0)
    model.requires_grad_(True)
    assert all(torch.equal(x, before[key]) for key, x in model.state_dict().items())
    assert any(not torch.equal(x, own[key]) for key, x in mechanism.encoder.state_dict().items())


def test_a_mechanism_is_not_shown_what_is_to_be_found(model):
    seen = []

    class Curious(Window):
        def shown(self, transformer, batch):
            seen.append(batch)
            return super().shown(transformer, batch)

    for name, given in (("law", 1), ("recall", 0)):
        probe = make_probe(name)
        batch = probe.sample(torch.Generator().manual_seed(0), 2)
        predict(model, Curious(model, probe), batch, torch.randn(batch.target.shape))
        target = seen.pop().target
        assert torch.equal(target[:, :, :given], batch.target[:, :, :given]) and not target[:, :, given:].any()
    assert batch.concealed().questions == ()


def test_settings_of_query_layers(model):
    query = LearnedQueries(model, make_probe("recall"), layers=1, query_sees_prediction=False).query.config
    assert (query.layers, query.query, query.query_time, query.query_sees_prediction) == (1, "noise", "clean", False)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("window", "no path to a class"),
        ("no such:Class", "no path to a class"),
        ("no_such_module:Mine", "'no_such_module' cannot be imported"),
        ("memkit.probes:Recall", "name a subclass of memkit.probes.Mechanism"),
        ("memkit.probes:Nothing", "is None; name a subclass"),
    ],
)
def test_a_path_that_leads_to_no_mechanism_is_refused(path, said):
    with pytest.raises(InputError) as error:
        import_mechanism(path)
    assert said in str(error.value)
    assert import_mechanism("memkit.probes.mechanisms:LearnedQueries") is LearnedQueries
