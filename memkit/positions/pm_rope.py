"""`PMRoPE`: cameras beside time in the positions of a stock Wan's self-attention (ReMind, arXiv 2605.25333).

A camera's vector c (`CameraPath.vectors`) turns queries and keys by the phase W c on top of Wan's own rotation, so that
the relative phase of two tokens is ω·(Δt, Δh, Δw) + W (c_i − c_j); values and output gain a term in projective
coordinates. Everything new starts at zero, where the model is itself to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memkit.backbones.base import Carrier, Positioning
from memkit.backbones.rotary import rotate
from memkit.backbones.unwrap import Attachable, wan_of, wans_of
from memkit.cameras.path import SIZE, CameraPath
from memkit.errors import InputError
from memkit.positions.attachment import AttachedCameras, cameras_of
from memkit.pretrained import Pretrained

MODES = ("off", "phase", "full")


@dataclass(frozen=True)
class PMRoPEConfig:
    """Sizes of a `PMRoPE`, those of the transformer; as they stand, of Wan2.1-T2V-1.3B (5B: ``heads=24``).

    ``mode``: "off" changes nothing and has no parameters, "phase" rotates queries and keys, "full" adds the terms of
    values and output. Parameters: 7·head_dim per layer for the phase, 2(d² + d) for the rest, d = heads·head_dim.
    """

    layers: int = 30
    heads: int = 12
    head_dim: int = 128
    mode: str = "full"

    def __post_init__(self) -> None:
        if min(self.layers, self.heads, self.head_dim) < 1 or self.head_dim % 4:
            raise InputError(f"{self}: sizes are positive, and head_dim is made of blocks of 4.")
        if self.mode not in MODES:
            raise InputError(f"mode = {self.mode!r}; give one of {', '.join(MODES)}.")

    @classmethod
    def of(cls, transformer: nn.Module, mode: str = "full") -> PMRoPEConfig:
        """The sizes of a transformer."""
        config = wan_of(transformer).config
        return cls(config.num_layers, config.num_attention_heads, config.attention_head_dim, mode)


class PMRoPE(Pretrained, nn.Module):
    """Positions of cameras for every self-attention of a Wan transformer; a module of its own, saved apart.

        path = CameraPath.of(cameras)
        with pm_rope.attach(transformer) as attached, attached.chunk(path):
            velocity = transformer(latents, t, text).sample

    It composes with injectors in any order: a `KVCache` keeps keys after rotation and phase, and values with their
    term, so a cached chunk keeps its cameras and a new one is run in ``chunk(path.frames(rows))``. Tokens of memory
    have neither phase nor term.
    """

    config_class: ClassVar[type[Any]] = PMRoPEConfig

    def __init__(self, config: PMRoPEConfig) -> None:
        super().__init__()
        self.config = config
        layers = 0 if config.mode == "off" else config.layers
        self.layers = nn.ModuleList(_Layer(config) for _ in range(layers))

    def reset_parameters(self) -> None:
        """Zero again, as after construction on the meta device and ``to_empty``."""
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def attach(self, *models: Attachable) -> AttachedCameras:
        """Attach to each transformer until ``detach()`` or the end of the ``with``; two experts share the parameters.

        Attached, a transformer runs in `AttachedCameras.chunk` only. In mode "off" nothing is attached and no cameras
        are needed.

        Raises:
            InputError: no transformer, one twice, not a Wan transformer, one of other sizes, or one that has camera
                positions.
        """
        transformers = wans_of(models)
        for model in transformers:
            if (wanted := PMRoPEConfig.of(model, self.config.mode)) != self.config:
                raise InputError(
                    f"The positions are of {self.config}, the transformer needs {wanted}; make them with "
                    "PMRoPEConfig.of(transformer)."
                )
        if self.config.mode == "off":
            transformers = []
        return AttachedCameras(self, transformers, lambda layer: _PMPositioning(self, layer))


class _Zero(nn.Linear):
    """A linear map that starts at zero, and comes back to it when a sharded module is materialised."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class _Layer(nn.Module):
    """The parameters of one layer: ``phase`` W, ``value`` A, ``output`` B."""

    def __init__(self, config: PMRoPEConfig) -> None:
        super().__init__()
        dim = config.heads * config.head_dim
        self.phase = _Zero(SIZE, config.head_dim // 2, bias=False)
        self.value = _Zero(dim, dim) if config.mode == "full" else None
        self.output = _Zero(dim, dim) if config.mode == "full" else None


class _PMPositioning(Positioning):
    """The positions of one layer."""

    def __init__(self, owner: PMRoPE, layer: int) -> None:
        self.layer: Any = owner.layers[layer]

    def position(self, hidden: Tensor, carrier: Carrier) -> CameraPath:
        """The cameras of this forward."""
        return cameras_of(hidden, carrier)

    def enter(
        self, q: Tensor, k: Tensor, v: Tensor, rotary: tuple[Tensor, Tensor], position: CameraPath
    ) -> tuple[Tensor, Tensor, Tensor]:
        """q and k turned by base · exp(i W c), all heads alike; v_j + A (P_j⁻¹ v_j)."""
        # Products and a sum, not a matmul: neither autocast nor TF32 may touch the phases.
        vectors = position.vectors
        phase = (vectors[..., None, :] * self.layer.phase.weight.to(vectors.dtype)).sum(-1)
        rotary = turned(*rotary, phase)
        q, k = rotate(q, *rotary), rotate(k, *rotary)
        if self.layer.value is not None:
            v = v + _over_heads(self.layer.value, in_blocks(v, position.unprojection)).unflatten(-1, v.shape[2:]).to(v)
        return q, k, v

    def leave(self, attn: Any, y: Tensor, position: CameraPath) -> Tensor:
        """o(y_i) + B (P_i y_i)."""
        out = attn.to_out[0](y.flatten(2, 3))
        if self.layer.output is None:
            return out
        return out + _over_heads(self.layer.output, in_blocks(y, position.projection)).to(out)


def _over_heads(linear: nn.Linear, x: Tensor) -> Tensor:
    return linear(x.flatten(2, 3).to(linear.weight.dtype))


def turned(
    cos: Float[Tensor, "_ tokens 1 dim"], sin: Float[Tensor, "_ tokens 1 dim"], phase: Float[Tensor, "batch frames _"]
) -> tuple[Float[Tensor, "_ tokens 1 dim"], Float[Tensor, "_ tokens 1 dim"]]:
    """The tables (cos, sin) of a rotation with a further angle for each frame and pair; unchanged where it is 0."""
    c, s = (x.unflatten(1, (phase.shape[1], -1)) for x in (cos[..., 0::2], sin[..., 1::2]))
    more_c, more_s = (x[:, :, None, None] for x in (phase.cos(), phase.sin()))
    both = c * more_c - s * more_s, s * more_c + c * more_s
    new = [x.flatten(1, 2).repeat_interleave(2, dim=-1).to(cos.dtype) for x in both]
    return new[0], new[1]


def in_blocks(
    x: Float[Tensor, "batch tokens heads dim"], matrix: Float[Tensor, "#batch frames 4 4"]
) -> Float[Tensor, "batch tokens heads dim"]:
    """Every four numbers of a head times the matrix of the token's frame, in the matrix' dtype or a wider one.

    Without a matmul, so that neither autocast nor TF32 makes it coarser.
    """
    wide = x.to(torch.promote_types(x.dtype, matrix.dtype)).unflatten(1, (matrix.shape[1], -1)).unflatten(-1, (-1, 4))
    columns = matrix[:, :, None, None, None].unbind(-1)
    x0, x1, x2, x3 = (part[..., None] for part in wide.unbind(-1))
    out = columns[0] * x0 + columns[1] * x1 + columns[2] * x2 + columns[3] * x3
    return out.flatten(-2).flatten(1, 2)
