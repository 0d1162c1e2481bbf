"""Wan's forward in its original parameter names, written out from the published architecture, for comparison."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def normal(*shape, generator):
    """Normally distributed values; tests of large sizes replace it by tensors without values."""
    return torch.randn(*shape, generator=generator)


def random_state(
    dim=48, heads=2, ffn=64, layers=2, in_channels=16, out_channels=16, text=32, freq=256, image=None, seed=0
):
    """Random weights under original names; ``image`` is the width of the CLIP features of an I2V model."""
    generator = torch.Generator().manual_seed(seed)
    state = {}

    def linear(name, out, inp):
        state[f"{name}.weight"] = normal(out, inp, generator=generator) / inp**0.5
        state[f"{name}.bias"] = normal(out, generator=generator) * 0.1

    def vector(name, *shape):
        state[name] = normal(*shape, generator=generator) * 0.3

    vector("patch_embedding.weight", dim, in_channels, 1, 2, 2)
    vector("patch_embedding.bias", dim)
    linear("text_embedding.0", dim, text)
    linear("text_embedding.2", dim, dim)
    linear("time_embedding.0", dim, freq)
    linear("time_embedding.2", dim, dim)
    linear("time_projection.1", 6 * dim, dim)
    for i in range(layers):
        for attn in ("self_attn", "cross_attn"):
            for part in "qkvo":
                linear(f"blocks.{i}.{attn}.{part}", dim, dim)
            for norm in ("norm_q", "norm_k"):
                vector(f"blocks.{i}.{attn}.{norm}.weight", dim)
        linear(f"blocks.{i}.ffn.0", ffn, dim)
        linear(f"blocks.{i}.ffn.2", dim, ffn)
        vector(f"blocks.{i}.norm3.weight", dim)
        vector(f"blocks.{i}.norm3.bias", dim)
        vector(f"blocks.{i}.modulation", 1, 6, dim)
        if image:
            linear(f"blocks.{i}.cross_attn.k_img", dim, dim)
            linear(f"blocks.{i}.cross_attn.v_img", dim, dim)
            vector(f"blocks.{i}.cross_attn.norm_k_img.weight", dim)
    linear("head.head", 4 * out_channels, dim)
    vector("head.modulation", 1, 2, dim)
    if image:
        for norm, width in (("0", image), ("4", dim)):
            vector(f"img_emb.proj.{norm}.weight", width)
            vector(f"img_emb.proj.{norm}.bias", width)
        linear("img_emb.proj.1", image, image)
        linear("img_emb.proj.3", dim, image)
    return state


def forward(state, latents, timestep, text, heads, *, first=0, embedded=None, before=None, between=None):
    """Velocity of a text-to-video Wan under original names, in float64.

    Frames are at ``first``, ``first`` + 1, …. What else a model does is put in by functions: ``embedded(x)`` of the
    patches [B,D,F,H,W], and of tokens [B,F,S,D] ``before(block, x)`` and ``between(block, x)``, its two attentions.
    """
    w = {name: value.double() for name, value in state.items()}
    latents, timestep, text = latents.double(), timestep.double(), text.double()

    def linear(name, x):
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def layer_norm(x, name=None):
        affine = (w[f"{name}.weight"], w[f"{name}.bias"]) if name else (None, None)
        return F.layer_norm(x, x.shape[-1:], *affine, eps=1e-6)

    def rms(x, name):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * w[name]

    x = F.conv3d(latents, w["patch_embedding.weight"], w["patch_embedding.bias"], stride=(1, 2, 2))
    x = x if embedded is None else embedded(x)
    batch, dim, frames, height, width = x.shape
    x = x.flatten(2).transpose(1, 2)
    angles = timestep[:, None] * 10000 ** (-torch.arange(128, dtype=torch.float64) / 128)
    e = linear("time_embedding.2", F.silu(linear("time_embedding.0", torch.cat([angles.cos(), angles.sin()], 1))))
    e0 = linear("time_projection.1", F.silu(e)).unflatten(1, (6, dim))
    context = linear("text_embedding.2", F.gelu(linear("text_embedding.0", text), approximate="tanh"))

    d = dim // heads
    sizes = (d - 4 * (d // 6), 2 * (d // 6), 2 * (d // 6))
    spans = (range(first, first + frames), range(height), range(width))
    grid = torch.meshgrid(*(torch.tensor(span, dtype=torch.float64) for span in spans), indexing="ij")
    phase = torch.cat(
        [
            axis.reshape(-1, 1) * 10000 ** (-torch.arange(0, n, 2, dtype=torch.float64) / n)
            for axis, n in zip(grid, sizes, strict=True)
        ],
        dim=1,
    )
    turn = torch.polar(torch.ones_like(phase), phase)[None, :, None]

    def attention(name, y, source, rope):
        q, k = (
            rms(linear(f"{name}.q", y), f"{name}.norm_q.weight"),
            rms(linear(f"{name}.k", source), f"{name}.norm_k.weight"),
        )
        q, k, v = (z.unflatten(-1, (heads, d)) for z in (q, k, linear(f"{name}.v", source)))
        if rope:
            q, k = (
                torch.view_as_real(torch.view_as_complex(z.unflatten(-1, (-1, 2))) * turn).flatten(-2) for z in (q, k)
            )
        weights = torch.softmax(torch.einsum("bqhd,bkhd->bhqk", q, k) / d**0.5, -1)
        return linear(f"{name}.o", torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2))

    for i in range(1 + max(int(n.split(".")[1]) for n in w if n.startswith("blocks."))):
        b = f"blocks.{i}"
        if before is not None:
            x = before(i, x.unflatten(1, (frames, -1))).flatten(1, 2)
        shift, scale, gate, c_shift, c_scale, c_gate = (w[f"{b}.modulation"] + e0).chunk(6, dim=1)
        y = layer_norm(x) * (1 + scale) + shift
        x = x + attention(f"{b}.self_attn", y, y, rope=True) * gate
        if between is not None:
            x = between(i, x.unflatten(1, (frames, -1))).flatten(1, 2)
        x = x + attention(f"{b}.cross_attn", layer_norm(x, f"{b}.norm3"), context, rope=False)
        y = F.gelu(linear(f"{b}.ffn.0", layer_norm(x) * (1 + c_scale) + c_shift), approximate="tanh")
        x = x + linear(f"{b}.ffn.2", y) * c_gate
    shift, scale = (w["head.modulation"] + e[:, None]).chunk(2, dim=1)
    x = linear("head.head", layer_norm(x) * (1 + scale) + shift)
    x = x.view(batch, frames, height, width, 1, 2, 2, -1)
    return torch.einsum("bfhwpqrc->bcfphqwr", x).reshape(batch, -1, frames, 2 * height, 2 * width)
