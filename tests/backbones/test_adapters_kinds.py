"""What else attaches to the models that have an adapter: streaming, camera positions; and what is refused, and why."""

from __future__ import annotations

import pytest
import torch

from memkit.backbones import ADAPTERS, adapter_of
from memkit.backbones.base import Carrier
from memkit.cameras import CameraPath, Cameras
from memkit.errors import InputError
from memkit.frame_graph import FrameGraph
from memkit.injectors import KVCache, QueryLayers, QueryLayersConfig, SelfAttentionConcat, TeacherForcing
from memkit.memory import Memory
from memkit.positions import PMRoPE, PMRoPEConfig, PRoPE
from tests.helpers.attachables import ATTACHABLES
from tests.helpers.backbones import BACKBONES
from tests.helpers.tiny_backbones import LTX, SKYREELS_V2, WAN, by_definition, ltx_call, seeded, visible

STREAMING = [name for name, backbone in BACKBONES.items() if "kv_cache" not in backbone.refused]
POSED = [name for name, backbone in BACKBONES.items() if "pm_rope" not in backbone.refused]


def streamed(backbone, model, chunk, first=0):
    """The output for all frames, chunk by chunk, each of which is written as it is computed."""
    cache, parts = KVCache(10**7), []
    with cache.attach(model) as attached:
        for start in range(0, backbone.num_frames, chunk):
            frames = slice(start, min(start + chunk, backbone.num_frames))
            with attached.chunk(range(first + start, first + frames.stop), write=True):
                parts.append(backbone.call(model, frames))
    return torch.cat(parts, backbone.frame_dim)


@torch.no_grad()
@pytest.mark.parametrize("chunk", [1, 2])
@pytest.mark.parametrize("name", STREAMING)
def test_streaming_is_one_pass_in_which_frames_see_their_chunk_and_earlier_ones(name, chunk):
    backbone = BACKBONES[name]
    model = backbone.make()
    base = backbone.call(model)
    with by_definition(backbone, model, chunk=chunk):
        want = backbone.call(model)
    got = streamed(backbone, model, chunk)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    assert (want - base).abs().max() > 1e-3
    assert torch.equal(backbone.call(model), base)


@torch.no_grad()
@pytest.mark.parametrize("name", STREAMING)
def test_streaming_with_memory_and_from_any_first_position(name):
    backbone = BACKBONES[name]
    model = backbone.make()
    tokens = seeded(2, 5, adapter_of(model).sizes(model).width, seed=7)
    with by_definition(backbone, model, tokens, chunk=2):
        want = backbone.call(model)
    with SelfAttentionConcat(Memory(tokens)).attach(model):
        torch.testing.assert_close(streamed(backbone, model, 2), want, rtol=0, atol=1e-5)
    moved = streamed(backbone, model, 2, first=-7)  # without memory tokens, which have no positions
    if backbone.joint:  # text has no positions either, so those of the video count as they are
        assert (moved - streamed(backbone, model, 2)).abs().max() > 1e-3
        return
    torch.testing.assert_close(moved, streamed(backbone, model, 2), rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", STREAMING)
def test_tables_of_the_models_own_positions_are_its_own(name):
    backbone, found = BACKBONES[name], []
    model = backbone.make()
    adapter = adapter_of(model)

    def begin(grid, carrier: Carrier) -> Carrier:
        found.append((adapter.rotary_at(model, range(backbone.num_frames), grid), carrier.rotary))
        raise StopIteration

    hooks = adapter.watch(model, begin)
    with pytest.raises(StopIteration):
        backbone.call(model)
    for hook in hooks:
        hook.remove()
    tables, own = found[0]
    assert all(torch.equal(a.expand_as(b), b) for a, b in zip(tables, own, strict=True))


def path(frames: int) -> CameraPath:
    rotation = torch.linalg.qr(seeded(1, frames, 3, 3, seed=3)).Q
    c2w = torch.eye(4).repeat(1, frames, 1, 1)
    c2w[..., :3, :3] = rotation * torch.linalg.det(rotation)[..., None, None]
    c2w[..., :3, 3] = seeded(1, frames, 3, seed=5)
    return CameraPath.of(Cameras(c2w, torch.full((1, frames, 4), 0.7)))


@torch.no_grad()
@pytest.mark.parametrize("name", POSED)
def test_camera_positions(name):
    backbone = BACKBONES[name]
    model = backbone.make()
    base, cameras = backbone.call(model), path(backbone.num_frames)
    pm_rope = PMRoPE(PMRoPEConfig.of(model))

    def posed(positions, cameras=cameras):
        with positions.attach(model) as attached, attached.chunk(cameras):
            return backbone.call(model)

    assert torch.equal(posed(pm_rope), base)  # all parameters are zero
    for i, parameter in enumerate(pm_rope.parameters()):
        parameter.data = 0.15 * seeded(*parameter.shape, seed=20 + i)
    for positions in (pm_rope, PRoPE()):
        out = posed(positions)
        assert out.isfinite().all() and (out - base).abs().max() > 1e-3
    still = cameras.frames([0] * backbone.num_frames)  # phases and matrices of one camera cancel between tokens
    torch.testing.assert_close(posed(PMRoPE(PMRoPEConfig.of(model)), still), base, rtol=0, atol=0)
    with pytest.raises(InputError, match=f"latents have {backbone.num_frames}"):
        posed(pm_rope, cameras.frames([0]))
    assert torch.equal(backbone.call(model), base)


# -- timesteps per token or frame --------------------------------------------------------------------------------------


def wan_times(model, times):
    return WAN.call(model, timestep=times.repeat_interleave(4, 1))


def skyreels_times(model, times):
    return SKYREELS_V2.call(model, timestep=times, enable_diffusion_forcing=True)


def ltx_times(model, times):
    return ltx_call(model, timestep=times.repeat_interleave(16, 1))


@torch.no_grad()
@pytest.mark.parametrize("name", ["wan", "skyreels_v2", "ltx"])
def test_memory_has_the_timestep_of_the_last_token(name):
    call = {"wan": wan_times, "skyreels_v2": skyreels_times, "ltx": ltx_times}[name]
    backbone, seen = BACKBONES[name], []
    model = backbone.make()
    adapter, tokens = adapter_of(model), seeded(2, 5, 48, seed=7)

    def see(block, args, kwargs):
        temb = {**dict(zip(adapter.block_arguments, args, strict=False)), **kwargs}["temb"]
        seen.append(adapter.modulate(block, tokens, temb))

    last = torch.tensor([[700.0], [150.0]])
    hook = adapter.blocks(model)[1].register_forward_pre_hook(see, with_kwargs=True)
    mixed = call(model, torch.cat([torch.zeros(2, 2), last.expand(2, 2)], 1))
    backbone.call(model)  # all tokens at 700 and 150
    hook.remove()
    torch.testing.assert_close(*seen, rtol=0, atol=1e-5)
    with SelfAttentionConcat(Memory(tokens)).attach(model):
        torch.testing.assert_close(call(model, last.expand(2, 4)), backbone.call(model), rtol=0, atol=1e-5)
        assert (call(model, torch.cat([torch.zeros(2, 2), last.expand(2, 2)], 1)) - mixed).abs().max() > 1e-3


# -- SkyReels-V2 has the parameters of Wan, so its results are Wan's ---------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in ATTACHABLES if name not in SKYREELS_V2.refused])
def test_skyreels_is_wan_with_any_attachment(name):
    wan, skyreels = WAN.make(), SKYREELS_V2.make()
    skyreels.load_state_dict(wan.state_dict())
    outputs = []
    for model in (wan, skyreels):
        one = ATTACHABLES[name]()
        with one.thing.attach(model) as attached:
            outputs.append(one.forward(model, attached))
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-4)


@torch.no_grad()
def test_skyreels_is_wan_with_a_prompt_per_chunk_and_with_queries_at_timestep_0():
    wan, skyreels = WAN.make(), SKYREELS_V2.make()
    skyreels.load_state_dict(wan.state_dict())
    frames, prompts = seeded(2, 16, 2, 4, 4, seed=2), seeded(2, 3, 6, 32, seed=3)
    per_frame = torch.tensor([[0.0] * 3 + [600.0] * 3] * 2)
    forced, queried = [], []
    for model in (wan, skyreels):
        with TeacherForcing().attach(model) as attached, attached.chunk(FrameGraph.chunks(3, chunk=1)):
            forced.append(model(seeded(2, 16, 6, 4, 4, seed=1), per_frame, prompts, return_dict=False)[0])
        torch.manual_seed(0)
        query = QueryLayers(QueryLayersConfig(dim=48, blocks=3, layers=2, query_time="clean"))
        with query.attach(model) as attached, attached.chunk(frames):
            queried.append(WAN.call(model))
    torch.testing.assert_close(*forced, rtol=0, atol=1e-4)
    torch.testing.assert_close(*queried, rtol=0, atol=1e-4)


@torch.no_grad()
def test_causal_skyreels_with_memory_and_what_it_refuses():
    model = SKYREELS_V2.make()
    model._set_ar_attention(2)
    tokens = seeded(2, 5, 48, seed=7)
    base = SKYREELS_V2.call(model)
    with by_definition(SKYREELS_V2, model, tokens, chunk=2):
        want = SKYREELS_V2.call(model)
    with SelfAttentionConcat(Memory(tokens)).attach(model):
        torch.testing.assert_close(SKYREELS_V2.call(model), want, rtol=0, atol=1e-5)
    with SelfAttentionConcat(Memory(tokens, mask=torch.zeros(2, 5, dtype=torch.bool))).attach(model):
        assert torch.equal(SKYREELS_V2.call(model), base)
    with pytest.raises(InputError, match="causal over blocks"):
        KVCache(10**7).attach(model)
    model._set_ar_attention(1)
    with KVCache(10**7).attach(model) as attached, attached.chunk(range(4)):
        SKYREELS_V2.call(model)
        model._set_ar_attention(2)  # as its pipelines do, when they are called
        with pytest.raises(InputError, match="causal over blocks"):
            SKYREELS_V2.call(model)
    assert visible(model, 4, 2, causal=True).sum() == 16 * 12


# -- what is refused ---------------------------------------------------------------------------------------------------

REFUSED = [(name, thing) for name, backbone in BACKBONES.items() for thing in backbone.refused]


@pytest.mark.parametrize(("name", "thing"), REFUSED)
def test_what_a_model_cannot_have_is_an_error_that_says_why(name, thing):
    backbone = BACKBONES[name]
    model = backbone.make()
    with pytest.raises(InputError, match=f"cannot be attached to a {type(model).__name__}.*{backbone.refused[thing]}"):
        ATTACHABLES[thing]().thing.attach(model)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_every_adapter_is_tested():
    assert {type(adapter_of(backbone.make())) for backbone in BACKBONES.values()} == {type(each) for each in ADAPTERS}


@torch.no_grad()
def test_ltx_with_coordinates_has_memory_but_no_positions_of_frames():
    model, coords = LTX.make(), seeded(2, 3, 64, seed=3)
    changed = {"num_frames": None, "height": None, "width": None, "video_coords": coords}
    base = ltx_call(model, **changed)
    with SelfAttentionConcat(Memory(seeded(1, 5, 48))).attach(model):
        assert (ltx_call(model, **changed) - base).abs().max() > 1e-3
    for thing, about in ((KVCache(10**7), range(4)), (PRoPE(), path(4))):
        told = pytest.raises(InputError, match="does not tell the number and size")
        with thing.attach(model) as attached, attached.chunk(about), told:
            ltx_call(model, **changed)
