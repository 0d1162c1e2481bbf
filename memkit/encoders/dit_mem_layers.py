"""The layers of the released DiT-Mem encoder (arXiv 2511.19229), with its parameter names.

Its filter orders frequencies by FFT bin number; see ``filters`` for the filters of new encoders.
"""

from __future__ import annotations

import math
import warnings

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn


def filter_curve(high: bool, channels: int, time: int, height: int, width: int) -> Float[Tensor, "c t h w2 2"]:
    """The filter of the release without its noise, as (real, imaginary), for the bins of ``rfftn`` of this size."""
    bins = (torch.linspace(0, 1, n) for n in (time, height, width // 2 + 1))
    d, h, w = torch.meshgrid(*bins, indexing="ij")
    radius = ((d.square() + h.square() + w.square()).sqrt() / math.sqrt(3)).sqrt()
    curve = 0.2 + 0.8 * radius if high else 1.2 - 0.8 * radius
    slope, offset = torch.linspace(0.7, 1.3, channels), torch.linspace(-0.05, 0.05, channels)
    real = (curve * slope[:, None, None, None] + offset[:, None, None, None]).clamp(0.2, 1.2)
    return torch.stack([real, torch.zeros_like(real)], dim=-1)


class ReleaseFilter(nn.Module):
    """Spectral weights, dropout, residual connection and BatchNorm: [V, C, T, H, W] -> the same shape.

    ``complex_weight`` is None, or the weights from a checkpoint, for features of the size ``stored``, [T, H, W//2+1].
    """

    complex_weight: Tensor | None

    def __init__(self, channels: int, high: bool, stored: tuple[int, int, int] | None) -> None:
        super().__init__()
        self.high = high
        self.dropout = nn.Dropout(0.5)
        self.norm = nn.BatchNorm3d(channels)
        curve = None if stored is None else filter_curve(high, channels, *stored[:2], 2 * (stored[2] - 1))
        self.register_buffer("complex_weight", curve)

    @property
    def stored(self) -> tuple[int, int, int] | None:
        """Size [T, H, W//2+1] of the features that the weights are for; None without weights."""
        if self.complex_weight is None:
            return None
        _, time, height, half, _ = self.complex_weight.shape
        return time, height, half

    def forward(self, x: Float[Tensor, "v c t h w"]) -> Float[Tensor, "v c t h w"]:
        """Filter ``x``; the spectrum is computed in fp32, whatever its dtype."""
        _, channels, time, height, width = x.shape
        weight = self.complex_weight
        if weight is not None and weight.shape[1:4] != (time, height, width // 2 + 1):
            warnings.warn(
                f"The checkpoint's filter is for features of [T, H, W//2+1] {tuple(weight.shape[1:4])}, these are "
                f"{(time, height, width // 2 + 1)}; using the release's curve without its noise.",
                stacklevel=2,
            )
            weight = None
        if weight is None:
            weight = filter_curve(self.high, channels, time, height, width).to(x.device)
        spectrum = torch.fft.rfftn(x.float(), dim=(-3, -2, -1), norm="ortho")
        spectrum = spectrum * torch.view_as_complex(weight.float().contiguous())
        filtered = torch.fft.irfftn(spectrum, s=(time, height, width), dim=(-3, -2, -1), norm="ortho")
        return self.norm(self.dropout(filtered.to(x.dtype)) + x)


class ReleaseBlock(nn.Module):
    """Convolution, filter, ReLU and max pooling by 2."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, high: bool, stored: tuple[int, int, int] | None
    ) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, kernel, stride, padding=kernel // 2)
        self.fft_filter = ReleaseFilter(outputs, high, stored)

    def forward(self, x: Float[Tensor, "v c t h w"]) -> Float[Tensor, "v c2 t2 h2 w2"]:
        return F.max_pool3d(F.relu(self.fft_filter(self.conv(x))), 2)


class ReleaseAttention(nn.Module):
    """Self-attention with biased projections and RMSNorm over the full width of q and k; without positions, residual
    connection, normalisation or MLP."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = nn.RMSNorm(dim, eps=1e-6), nn.RMSNorm(dim, eps=1e-6)

    def forward(self, x: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"] | None) -> Float[Tensor, "b n d"]:
        q, k, v = (
            y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for y in (self.norm_q(self.q(x)), self.norm_k(self.k(x)), self.v(x))
        )
        if mask is not None:  # a masked video attends to itself, so that no row is empty
            mask = (mask[:, None, :] | torch.eye(x.shape[1], dtype=torch.bool, device=x.device))[:, None]
        return self.o(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))
