"""Causal inference of Self-Forcing and its successors in original names and float64, for comparison with `Stream`.

Per layer one buffer of rotated keys and values, as in the published code: each call writes its frames at the end; when
the buffer is full, the tokens after the sink move to the left.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


class CausalWan:
    """A text-to-video Wan under original names that attends to ``window`` frames, of which the first are the sink."""

    def __init__(self, state, heads, window, sink=0):
        self.w = {name: value.double() for name, value in state.items()}
        self.heads, self.window, self.sink = heads, window, sink
        self.layers = 1 + max(int(n.split(".")[1]) for n in self.w if n.startswith("blocks."))
        self.buffers = [None] * self.layers
        self.global_end, self.local_end = [0] * self.layers, [0] * self.layers

    def linear(self, name, x):
        return F.linear(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def rms(self, x, name):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.w[f"{name}.weight"]

    def norm(self, x, name=None):
        affine = (self.w[f"{name}.weight"], self.w[f"{name}.bias"]) if name else (None, None)
        return F.layer_norm(x, x.shape[-1:], *affine, eps=1e-6)

    def split(self, x):
        return x.unflatten(-1, (self.heads, -1))

    def rotate(self, x, grid):
        """Rotary positions of each token: frame, row, column."""
        d = x.shape[-1]
        angles = []
        for axis, n in zip(grid.unbind(-1), (d - 4 * (d // 6), 2 * (d // 6), 2 * (d // 6)), strict=True):
            angles.append(axis[:, None] * 10000 ** (-torch.arange(0, n, 2, dtype=torch.float64) / n))
        angle = torch.cat(angles, 1)[None, :, None]
        even, odd = x[..., 0::2], x[..., 1::2]
        turned = (even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos())
        return torch.stack(turned, -1).flatten(-2)

    def attend(self, name, q, k, v):
        weights = torch.softmax(torch.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5, -1)
        return self.linear(f"{name}.o", torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2))

    def self_attention(self, layer, y, grid, per_frame):
        name = f"blocks.{layer}.self_attn"
        q, k, v = (self.linear(f"{name}.{part}", y) for part in "qkv")
        q, k = self.split(self.rms(q, f"{name}.norm_q")), self.split(self.rms(k, f"{name}.norm_k"))
        q, k, v = self.rotate(q, grid), self.rotate(k, grid), self.split(v)
        size, sink, new = self.window * per_frame, self.sink * per_frame, k.shape[1]
        if self.buffers[layer] is None:
            self.buffers[layer] = [torch.zeros(k.shape[0], size, *k.shape[2:], dtype=torch.float64) for _ in "kv"]
        end = int(grid[-1, 0] + 1) * per_frame
        local = self.local_end[layer]
        if end > self.global_end[layer] and new + local > size:
            evicted = new + local - size
            kept = local - evicted - sink
            for buffer in self.buffers[layer]:
                buffer[:, sink : sink + kept] = buffer[:, sink + evicted : sink + evicted + kept].clone()
            local -= evicted
        local += end - self.global_end[layer]
        for buffer, value in zip(self.buffers[layer], (k, v), strict=True):
            buffer[:, local - new : local] = value
        self.local_end[layer], self.global_end[layer] = local, end
        keys, values = (buffer[:, max(0, local - size) : local] for buffer in self.buffers[layer])
        return self.attend(name, q, keys, values)

    def __call__(self, latents, t, text, start):
        """Velocity of the frames from ``start`` on at timestep ``t``; their keys and values are written."""
        x = F.conv3d(
            latents.double(), self.w["patch_embedding.weight"], self.w["patch_embedding.bias"], stride=(1, 2, 2)
        )
        batch, dim, frames, height, width = x.shape
        x = x.flatten(2).transpose(1, 2)
        axes = (torch.arange(start, start + frames), torch.arange(height), torch.arange(width))
        grid = torch.cartesian_prod(*axes).double()
        angles = t * 10000 ** (-torch.arange(128, dtype=torch.float64) / 128)
        embedded = torch.cat([angles.cos(), angles.sin()])[None]
        e = self.linear("time_embedding.2", F.silu(self.linear("time_embedding.0", embedded)))
        e0 = self.linear("time_projection.1", F.silu(e)).unflatten(1, (6, dim))
        context = F.gelu(self.linear("text_embedding.0", text.double()), approximate="tanh")
        context = self.linear("text_embedding.2", context)
        for i in range(self.layers):
            b = f"blocks.{i}"
            shift, scale, gate, c_shift, c_scale, c_gate = (self.w[f"{b}.modulation"] + e0).chunk(6, dim=1)
            x = x + gate * self.self_attention(i, self.norm(x) * (1 + scale) + shift, grid, height * width)
            y, name = self.norm(x, f"{b}.norm3"), f"{b}.cross_attn"
            q = self.split(self.rms(self.linear(f"{name}.q", y), f"{name}.norm_q"))
            k = self.split(self.rms(self.linear(f"{name}.k", context), f"{name}.norm_k"))
            x = x + self.attend(name, q, k, self.split(self.linear(f"{name}.v", context)))
            y = F.gelu(self.linear(f"{b}.ffn.0", self.norm(x) * (1 + c_scale) + c_shift), approximate="tanh")
            x = x + self.linear(f"{b}.ffn.2", y) * c_gate
        shift, scale = (self.w["head.modulation"] + e[:, None]).chunk(2, dim=1)
        x = self.linear("head.head", self.norm(x) * (1 + scale) + shift)
        x = x.view(batch, frames, height, width, 1, 2, 2, -1)
        return torch.einsum("bfhwpqrc->bcfphqwr", x).reshape(batch, -1, frames, 2 * height, 2 * width)


def rollout(model, noise, fresh, texts, timesteps, chunk):
    """Chunk by chunk: at each timestep the clean chunk, noised anew to the next; then once more at 0, to write it.

    ``noise`` is that of the whole video, ``fresh(number, span)`` the new noise of a step, ``texts`` one per chunk.
    """
    made = []
    for number, text in enumerate(texts):
        span = range(number * chunk, (number + 1) * chunk)
        x = noise[:, :, span.start : span.stop].double()
        for i, t in enumerate(timesteps):
            clean = x - t / 1000 * model(x, t, text, span.start)
            if i + 1 < len(timesteps):
                later = timesteps[i + 1] / 1000
                x = (1 - later) * clean + later * fresh(i + 1, span).double()
        model(clean, 0.0, text, span.start)
        made.append(clean)
    return torch.cat(made, 2)


def warped(steps, shift):
    """Self-Forcing's ``warp_denoising_step``: the entries of its training schedule, looked up by number."""
    u = torch.linspace(1, 0, 1001, dtype=torch.float64)[:-1]
    schedule = torch.cat([1000 * shift * u / (1 + (shift - 1) * u), torch.zeros(1, dtype=torch.float64)])
    return [float(schedule[1000 - step]) for step in steps]
