"""The released encoder against a literal, slow version of its arithmetic: 200 tokens a video, attended densely."""

import dataclasses
import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from memkit.encoders import DitMemConfig, DitMemEncoder, load_dit_mem
from memkit.encoders.dit_mem_layers import ReleaseFilter, filter_curve
from memkit.errors import InputError

CONFIG = DitMemConfig(latent_channels=3, channels=(6, 8), grid=(1, 2), dim=16, heads=8)
SIZE = (21, 20, 34)  # convolved to (6, 5, 9), pooled to (3, 2, 4), pooled to (1, 1, 2)
BRANCHES = ("high_pass_module", "low_pass_module")


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def release_state_dict(prefix="pipe.dit_mem.", aliases=True):
    """All 118 names of the release at small sizes, with random values and noisy filters."""
    first, second = CONFIG.channels
    blocks = {
        "conv_block1": (first, CONFIG.latent_channels, 7, (6, 5, 9)),
        "conv_block2": (second, first, 3, (3, 2, 4)),
    }
    state, seed = {}, iter(range(1000))
    for branch in BRANCHES:
        for number, (block, (out, inputs, k, grid)) in enumerate(blocks.items()):
            part = {
                "conv.weight": randn(out, inputs, k, k, k, seed=next(seed)) * (inputs * k**3) ** -0.5,
                "conv.bias": randn(out, seed=next(seed)),
            }
            curve = filter_curve(branch.startswith("high"), out, *grid)
            noisy = curve + 0.05 * randn(*curve.shape, seed=next(seed))
            noisy[..., 0].clamp_(0.05, 1.2)
            part["fft_filter.complex_weight"] = noisy
            for norm in ("fft_filter.norm", "bn"):
                part[f"{norm}.weight"], part[f"{norm}.bias"] = randn(out, seed=next(seed)), randn(out, seed=next(seed))
                part[f"{norm}.running_mean"] = randn(out, seed=next(seed))
                part[f"{norm}.running_var"] = randn(out, seed=next(seed)).exp()
                part[f"{norm}.num_batches_tracked"] = torch.tensor(5)
            for name, value in part.items():
                state[f"{branch}.{block}.{name}"] = value
                if aliases:
                    state[f"{branch}.cnn.{number}.{name}"] = value
        cells = second * math.prod(CONFIG.grid)
        state[f"{branch}.feature_proj.weight"] = randn(CONFIG.dim, cells, seed=next(seed)) * cells**-0.5
        state[f"{branch}.feature_proj.bias"] = randn(CONFIG.dim, seed=next(seed))
    for name in "qkvo":
        state[f"self_attention.{name}.weight"] = randn(CONFIG.dim, CONFIG.dim, seed=next(seed)) * 0.5
        state[f"self_attention.{name}.bias"] = randn(CONFIG.dim, seed=next(seed))
    for name in ("norm_q", "norm_k"):
        state[f"self_attention.{name}.weight"] = randn(CONFIG.dim, seed=next(seed))
    return {prefix + name: value for name, value in state.items()}


def params_only(state):
    buffers = ("complex_weight", "running_mean", "running_var", "num_batches_tracked")
    return {name: value for name, value in state.items() if ".cnn." not in name and not name.endswith(buffers)}


def release_tokens(state, videos):
    """[N, C, T, H, W] -> [200 N, dim], as the page on the release tells it, one step after the other."""
    tokens = []
    for branch in BRANCHES:
        x = videos
        for block, stride in (("conv_block1", 4), ("conv_block2", 1)):
            get = {name.removeprefix(f"{branch}.{block}."): value for name, value in state.items()}
            kernel = get["conv.weight"].shape[-1]
            x = F.conv3d(x, get["conv.weight"], get["conv.bias"], stride=stride, padding=kernel // 2)
            real, imaginary = get["fft_filter.complex_weight"].unbind(-1)
            spectrum = torch.fft.rfftn(x, dim=(2, 3, 4), norm="ortho") * torch.complex(real, imaginary)
            x = torch.fft.irfftn(spectrum, s=x.shape[2:], dim=(2, 3, 4), norm="ortho") + x
            mean, var = get["fft_filter.norm.running_mean"], get["fft_filter.norm.running_var"]
            weight, bias = get["fft_filter.norm.weight"], get["fft_filter.norm.bias"]
            of = (slice(None), None, None, None)
            x = (x - mean[of]) / (var[of] + 1e-5).sqrt() * weight[of] + bias[of]
            x = F.max_pool3d(F.relu(x), 2)
        if tuple(x.shape[2:]) != (1, *CONFIG.grid):
            x = F.adaptive_avg_pool3d(x, (1, *CONFIG.grid))
        x = x.permute(0, 2, 1, 3, 4).flatten(2)  # [N, 1, cells]
        x = F.adaptive_avg_pool1d(x.transpose(1, 2), 100).transpose(1, 2)  # [N, 100, cells]
        x = x @ state[f"{branch}.feature_proj.weight"].T + state[f"{branch}.feature_proj.bias"]
        tokens.append(release_attention(state, x.flatten(0, 1)))
    return torch.cat(tokens)


def release_attention(state, x):
    def linear(name, y):
        return y @ state[f"self_attention.{name}.weight"].T + state[f"self_attention.{name}.bias"]

    def rms(name, y):
        return y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt() * state[f"self_attention.{name}.weight"]

    q, k, v = rms("norm_q", linear("q", x)), rms("norm_k", linear("k", x)), linear("v", x)
    width = CONFIG.dim // CONFIG.heads
    heads = []
    for at in range(0, CONFIG.dim, width):
        q_h, k_h, v_h = (y[:, at : at + width] for y in (q, k, v))
        heads.append(torch.softmax(q_h @ k_h.T / width**0.5, dim=-1) @ v_h)
    return linear("o", torch.cat(heads, dim=-1))


def same(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-4)  # values of 10 in float32


def quietly(*args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_dit_mem(*args, **kwargs)


@pytest.fixture
def bare():
    return release_state_dict(prefix="")


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("config", [CONFIG, None])
def test_two_tokens_a_video_stand_for_the_releases_two_hundred(bare, count, config):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a full checkpoint gives no reason to warn
        encoder = load_dit_mem(release_state_dict(), config)
    assert encoder.config == CONFIG
    latents = randn(2, count, 3, *SIZE, seed=9)
    memory = encoder(latents)
    assert memory.tokens.shape == (2, 2 * count, 16) and memory.mask is None
    assert torch.equal(memory.log_weight, torch.full((2, 2 * count), math.log(100)))
    for b in range(2):
        expected = release_tokens(bare, latents[b])
        assert expected.shape == (200 * count, 16)
        same(memory.tokens[b].repeat_interleave(100, dim=0), expected)
    assert (memory.tokens[0, 0] - memory.tokens[0, count]).norm() > 0.1  # high and low do differ


def test_a_query_sees_the_same_memory(bare):
    """What the log-weight is for: attention over video keys and memory comes out as over the 200 N tokens."""
    latents = randn(1, 3, 3, *SIZE, seed=9)
    memory = load_dit_mem(bare)(latents)
    query, video = randn(5, 16, seed=1), randn(7, 16, seed=2)
    few, many = torch.cat([video, memory.tokens[0]]), torch.cat([video, release_tokens(bare, latents[0])])
    logits = query @ few.T
    logits[:, 7:] += memory.log_weight[0]
    same(torch.softmax(logits, -1) @ few, torch.softmax(query @ many.T, -1) @ many)


def test_other_sizes_are_pooled_to_the_grid_and_say_so(bare):
    encoder = load_dit_mem(bare)
    latents = randn(1, 2, 3, 30, 33, 50, seed=4)  # features (8, 9, 13), then (4, 4, 6), then (2, 2, 3)
    with pytest.warns(UserWarning, match="without its noise") as warned:
        memory = encoder(latents)
    assert any("(6, 5, 5), these are (8, 9, 7)" in str(warning.message) for warning in warned)
    for branch in BRANCHES:
        for block, channels, grid in (("conv_block1", 6, (8, 9, 13)), ("conv_block2", 8, (4, 4, 6))):
            curve = filter_curve(branch.startswith("high"), channels, *grid)
            bare[f"{branch}.{block}.fft_filter.complex_weight"] = curve
    same(memory.tokens[0].repeat_interleave(100, dim=0), release_tokens(bare, latents[0]))


def test_the_curve_is_the_releases():
    """By the formula, one bin at a time; the bin of frequency −1 comes out highest, which is the release's defect."""
    for high in (True, False):
        curve = filter_curve(high, 3, 4, 5, 6)
        assert curve.shape == (3, 4, 5, 4, 2) and (curve[..., 1] == 0).all()
        for c, slope, offset in ((0, 0.7, -0.05), (1, 1.0, 0.0), (2, 1.3, 0.05)):
            for d, h, w in ((0, 0, 0), (3, 4, 3), (1, 2, 0), (0, 0, 3)):
                root = (math.sqrt((d / 3) ** 2 + (h / 4) ** 2 + (w / 3) ** 2) / math.sqrt(3)) ** 0.5
                value = (0.2 + 0.8 * root if high else 1.2 - 0.8 * root) * slope + offset
                assert curve[c, d, h, w, 0] == pytest.approx(min(max(value, 0.2), 1.2), abs=1e-6)
    assert filter_curve(True, 1, 1, 1, 1).shape == (1, 1, 1, 1, 2)


def test_names_and_counts_are_the_releases(bare):
    assert len(release_state_dict()) == 118 and len(params_only(bare)) == 38


def test_the_real_size():
    with torch.device("meta"):
        encoder = DitMemEncoder(DitMemConfig())
    unused = 2 * 2 * (512 + 768)  # the BatchNorm that the release never calls
    assert sum(p.numel() for p in encoder.parameters()) + unused == pytest.approx(78.78e6, abs=5e3)
    shapes = {name: tuple(value.shape) for name, value in encoder.state_dict().items()}
    for branch in BRANCHES:
        assert shapes[f"{branch}.conv_block1.conv.weight"] == (512, 16, 7, 7, 7)
        assert shapes[f"{branch}.conv_block2.conv.weight"] == (768, 512, 3, 3, 3)
        assert shapes[f"{branch}.feature_proj.weight"] == (1536, 13824)
    assert shapes["self_attention.norm_q.weight"] == (1536,)


@pytest.mark.parametrize("prefix", ["pipe.dit_mem.", "dit_mem.", ""])
@pytest.mark.parametrize("aliases", [True, False])
def test_every_way_to_name_the_tensors_loads_the_same(prefix, aliases, bare):
    latents = randn(1, 2, 3, *SIZE)
    state = release_state_dict(prefix, aliases)
    if prefix:
        state["pipe.dit.blocks.0.weight"] = torch.zeros(3)
    assert torch.equal(load_dit_mem(state)(latents).tokens, load_dit_mem(bare)(latents).tokens)


def test_parameters_alone_load_with_a_warning_that_counts(bare):
    with pytest.warns(UserWarning, match="lacks 8 of 8 BatchNorm statistics.*4 of 4 filters"):
        encoder = load_dit_mem(params_only(bare), CONFIG)
    for branch in BRANCHES:
        for block, channels, grid in (("conv_block1", 6, (6, 5, 9)), ("conv_block2", 8, (3, 2, 4))):
            name = f"{branch}.{block}.fft_filter"
            bare[f"{name}.complex_weight"] = filter_curve(branch.startswith("high"), channels, *grid)
            bare[f"{name}.norm.running_mean"] = torch.zeros(channels)
            bare[f"{name}.norm.running_var"] = torch.ones(channels)
    latents = randn(1, 2, 3, *SIZE)
    same(encoder(latents).tokens[0].repeat_interleave(100, 0), release_tokens(bare, latents[0]))
    assert torch.equal(encoder(latents).tokens, quietly(params_only(bare), CONFIG)(latents).tokens)


def test_the_callers_tensors_are_copied(bare):
    encoder, before = load_dit_mem(bare), {name: value.clone() for name, value in bare.items()}
    with torch.no_grad():
        for value in encoder.state_dict().values():
            value.add_(1)
    assert all(torch.equal(bare[name], value) for name, value in before.items())


def test_files(tmp_path, bare):
    latents = randn(1, 2, 3, *SIZE)
    expected = load_dit_mem(bare)(latents).tokens
    torch.save(release_state_dict(), tmp_path / "release.pt")
    save_file({name: value.clone() for name, value in bare.items()}, tmp_path / "release.safetensors")
    for file in ("release.pt", "release.safetensors"):
        assert torch.equal(load_dit_mem(tmp_path / file)(latents).tokens, expected)
    halves = {name: value.bfloat16() for name, value in params_only(bare).items()}
    torch.save(halves, tmp_path / "bf16.pt")
    encoder = quietly(str(tmp_path / "bf16.pt"), CONFIG)
    assert all(p.dtype == torch.float32 for p in encoder.parameters())


class Payload:
    def __reduce__(self):
        return (print, ("code in a checkpoint was run",))


def test_files_with_code_or_damage_are_refused(tmp_path, bare, capsys):
    torch.save({"pipe.dit_mem.x": Payload()}, tmp_path / "evil.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "noise.pt").write_bytes(b"\x80\x02noise")
    (tmp_path / "noise.safetensors").write_bytes(b"noise")
    for file in ("evil.pt", "list.pt", "noise.pt", "noise.safetensors", "none.pt"):
        with pytest.raises(InputError, match=file):
            load_dit_mem(tmp_path / file)
    assert "was run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: s.pop("self_attention.k.bias"), "lacks self_attention.k.bias"),
        (lambda s: s.pop("high_pass_module.feature_proj.weight"), "lacks high_pass_module.feature_proj.weight"),
        (lambda s: s.update(extra=torch.zeros(1)), "unknown extra"),
        (lambda s: s.update({"self_attention.q.bias": torch.zeros(3)}), r"self_attention.q.bias of shape \(3,\)"),
        (lambda s: s.update({"low_pass_module.cnn.0.conv.bias": torch.ones(6)}), "two different tensors"),
        (
            lambda s: s.update({"low_pass_module.conv_block1.fft_filter.complex_weight": torch.zeros(2)}),
            "complex_weight",
        ),
    ],
)
def test_checkpoints_that_do_not_fit_are_named(change, named):
    state = release_state_dict("", aliases=False)
    state["low_pass_module.cnn.0.conv.bias"] = state["low_pass_module.conv_block1.conv.bias"]
    change(state)
    with pytest.raises(InputError, match=named):
        load_dit_mem(state)


def test_a_grid_that_cannot_be_known_is_asked_for(bare):
    with pytest.raises(InputError, match="config=DitMemConfig"):
        load_dit_mem(params_only(bare))


def test_masked_videos_are_never_read(bare):
    encoder, latents = load_dit_mem(bare), randn(2, 3, 3, *SIZE)
    mask = torch.tensor([[True, False, True], [False, False, False]])
    spoiled = latents.clone()
    spoiled[~mask] = torch.nan
    memory = encoder(spoiled, mask)
    same(memory.tokens[0, [0, 2, 3, 5]], encoder(latents[:1, [0, 2]]).tokens[0])
    assert torch.equal(memory.mask, torch.cat([mask, mask], dim=1))
    assert (memory.tokens[~memory.mask] == 0).all()


def test_order_of_videos_only_orders_tokens(bare):
    encoder, latents = load_dit_mem(bare), randn(1, 3, 3, *SIZE)
    assert not any(module.training for module in encoder.modules())
    expected = encoder(latents).tokens
    same(encoder(latents[:, [2, 0, 1]]).tokens, expected[:, [2, 0, 1, 5, 3, 4]])


@pytest.mark.parametrize("size", [(12, 20, 34), (21, 12, 34), (21, 20, 12)])
def test_too_small_clips_name_the_minimum(bare, size):
    with pytest.raises(InputError, match="13 or more"):
        load_dit_mem(bare)(randn(1, 1, 3, *size))
    assert quietly(bare)(randn(1, 1, 3, *SIZE)).tokens.isfinite().all()


@pytest.mark.parametrize(
    ("shape", "named"),
    [
        ((2, 3, *SIZE), r"latents\[:, None\]"),
        ((1, 1, 5, *SIZE), "5 channels, this encoder takes 3"),
        ((1, 0, 3, *SIZE), "attach no memory"),
    ],
)
def test_shapes_that_do_not_fit_are_named(bare, shape, named):
    with pytest.raises(InputError, match=named):
        load_dit_mem(bare)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("change", "named"),
    [({"heads": 5}, "multiple of heads=5"), ({"dim": 0}, "dim is 0"), ({"resize_to": (12, 13, 13)}, "of 13 or more")],
)
def test_configurations_that_cannot_be_are_named(change, named):
    with pytest.raises(InputError, match=named):
        dataclasses.replace(CONFIG, **change)


def test_in_training_dropout_falls_on_what_is_filtered_before_the_residual():
    x = randn(4, 6, 5, 6, 7)
    layer = ReleaseFilter(6, high=True, stored=None)
    layer.norm = torch.nn.Identity()
    filtered = layer.eval()(x) - x
    kept = (layer.train()(x) - x) / filtered
    assert ((kept.abs() < 1e-3) | ((kept - 2).abs() < 1e-2))[filtered.abs() > 1e-2].all()
    assert 0.45 < (kept > 1).float().mean() < 0.55


def without_dropout(encoder):
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return encoder


def test_in_training_the_statistics_are_those_of_the_real_videos_of_the_batch(bare):
    """The literal release, given mean and variance by hand; a masked video is not counted."""
    latents = randn(1, 3, 3, *SIZE, seed=9)
    latents[:, 1] = torch.nan
    mask = torch.tensor([[True, False, True]])
    encoder = without_dropout(load_dit_mem(bare)).train()
    seen = {}
    for name, module in encoder.named_modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0]}))
    memory = encoder(latents, mask)
    for name, x in seen.items():
        assert len(x) == 2
        bare[f"{name}.running_mean"] = x.mean((0, 2, 3, 4))
        bare[f"{name}.running_var"] = x.var((0, 2, 3, 4), correction=0)
    assert len(seen) == 4
    expected = release_tokens(bare, latents[0, [0, 2]])
    same(memory.tokens[0, [0, 2, 3, 5]].repeat_interleave(100, dim=0), expected)
    only = without_dropout(load_dit_mem(release_state_dict())).train()
    only(latents[:, [0, 2]])
    for name, value in encoder.named_buffers():
        same(value, dict(only.named_buffers())[name])


def test_a_batch_without_any_real_video_leaves_the_statistics(bare):
    encoder = load_dit_mem(bare).train()
    before = {name: value.clone() for name, value in encoder.named_buffers()}
    memory = encoder(torch.full((2, 2, 3, *SIZE), torch.nan), torch.zeros(2, 2, dtype=torch.bool))
    assert (memory.tokens == 0).all() and not memory.mask.any()
    assert all(torch.equal(value, before[name]) for name, value in encoder.named_buffers())


def test_resized_videos_are_as_if_resized_by_hand():
    config = dataclasses.replace(CONFIG, resize_to=(20, 32, 32))
    torch.manual_seed(0)
    encoder = DitMemEncoder(config)
    plain = DitMemEncoder(CONFIG)
    plain.load_state_dict(encoder.state_dict())
    small = randn(2, 2, 3, 5, 8, 8)
    large = F.interpolate(small.flatten(0, 1), (20, 32, 32), mode="trilinear", align_corners=False)
    same(encoder(small).tokens, plain(large.unflatten(0, (2, 2))).tokens)
    assert encoder(randn(1, 1, 3, 1, 1, 1)).tokens.isfinite().all()


@pytest.mark.parametrize("lost", ["nothing", "one filter", "all buffers"])
def test_a_loaded_checkpoint_is_saved_whole(tmp_path, bare, lost):
    """The filters that a checkpoint brought come back to the bit; those that it lacked are the curve again."""
    if lost == "one filter":
        del bare["low_pass_module.conv_block1.fft_filter.complex_weight"]
        del bare["low_pass_module.cnn.0.fft_filter.complex_weight"]
    encoder = quietly(params_only(bare) if lost == "all buffers" else bare, CONFIG)
    latents = randn(1, 2, 3, *SIZE)
    expected = encoder(latents).tokens
    encoder.save_pretrained(tmp_path)
    loaded = DitMemEncoder.from_pretrained(tmp_path)
    assert torch.equal(loaded(latents).tokens, expected) and loaded.config == encoder.config
    held = [size is not None for size in loaded.config.stored_filters]
    assert held == {"nothing": [True] * 4, "one filter": [True, True, False, True], "all buffers": [False] * 4}[lost]
    again = loaded.save_pretrained(tmp_path / "again")
    for file in ("config.json", "model.safetensors"):
        assert (again / file).read_bytes() == (tmp_path / file).read_bytes()
