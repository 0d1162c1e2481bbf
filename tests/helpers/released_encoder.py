"""A literal, slow version of the released DiT-Mem encoder's arithmetic: 200 tokens per video, attended densely."""

import math
import warnings

import torch
import torch.nn.functional as F

from memkit.encoders import DitMemConfig, load_dit_mem
from memkit.encoders.dit_mem_layers import filter_curve

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


def quietly(*args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_dit_mem(*args, **kwargs)


def same(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-4)  # values of 10 in float32
