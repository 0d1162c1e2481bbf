"""`PMRoPE`: camera positions in addition to the model's rotary positions in self-attention (ReMind, arXiv 2605.25333).

A camera's vector c (`CameraPath.vectors`) rotates queries and keys by the phase W c in addition to the model's own
rotation, so that the relative phase of two tokens is ω·(Δt, Δh, Δw) + W (c_i − c_j); values and outputs get an
additional term in projective coordinates. All parameters are initialised to zero, where the model's outputs are
bit-identical to before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memkit.backbones.adapters.choice import adapter_of
from memkit.backbones.base import CAMERA_POSITIONS, Carrier, Positioning
from memkit.backbones.rotary import rotate
from memkit.backbones.unwrap import Attachable, transformer_of, transformers_of
from memkit.cameras.path import SIZE, CameraPath
from memkit.checks import LAYERS, WIDTHS, check_choice, check_fields
from memkit.errors import InputError
from memkit.positions.attachment import AttachedCameras, cameras_of
from memkit.pretrained import Pretrained

MODES = ("off", "phase", "full")


@dataclass(frozen=True)
class PMRoPEConfig:
    """Sizes of the transformer, by default those of Wan2.1-T2V-1.3B (5B: ``heads=24``), and the mode.

    Number of parameters per layer: 7·head_dim for the phase, 2·(d² + d) for the terms of values and outputs, with
    d = heads·head_dim.
    """

    layers: int = 30
    """Number of transformer blocks."""
    heads: int = 12
    """Number of attention heads."""
    head_dim: int = 128
    """Width of an attention head, a multiple of 4."""
    mode: str = "full"
    """Mode: "phase" rotates queries and keys, "full" also adds terms to values and outputs, "off" changes nothing."""

    def __post_init__(self) -> None:
        check_fields(self, layers=LAYERS, heads=LAYERS, head_dim=WIDTHS)
        if self.head_dim % 4:
            raise InputError(f"{self}: give a head_dim that divides into blocks of 4.")
        check_choice("mode", self.mode, MODES)

    @classmethod
    def of(cls, transformer: nn.Module, mode: str = "full") -> PMRoPEConfig:
        """The config with the sizes of a transformer."""
        model = transformer_of(transformer)
        sizes = adapter_of(model).sizes(model)
        return cls(sizes.layers, sizes.heads, sizes.head_dim, mode)


class PMRoPE(Pretrained, nn.Module):
    """Camera positions for every self-attention of a transformer; a separate module, saved by itself.

        path = CameraPath.of(cameras)
        with pm_rope.attach(transformer) as attached, attached.chunk(path):
            velocity = transformer(latents, t, text).sample

    It composes with injectors in any order: a `KVCache` stores keys and values with their camera positions applied, so
    a cached chunk keeps its cameras, and a new chunk runs in ``chunk(path.frames(rows))``. Memory tokens have no camera
    positions.
    """

    config_class: ClassVar[type[Any]] = PMRoPEConfig

    def __init__(self, config: PMRoPEConfig) -> None:
        super().__init__()
        self.config = config
        layers = 0 if config.mode == "off" else config.layers
        self.layers = nn.ModuleList(_Layer(config) for _ in range(layers))

    def reset_parameters(self) -> None:
        """Set all parameters to zero, as is needed after construction on the meta device and ``to_empty``."""
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def attach(self, *models: Attachable) -> AttachedCameras:
        """Attach to transformers, or to all experts of a pipeline or backbone, until ``detach()`` or the end of the
        ``with`` statement; experts share the parameters.

        While attached, a transformer runs only inside `AttachedCameras.chunk`. In mode "off", nothing is attached and
        no cameras are needed.

        Raises:
            InputError: no transformer is given, one is repeated, has other sizes, cannot have camera positions or
                already has them.
        """
        transformers = transformers_of(models, CAMERA_POSITIONS)
        for model in transformers:
            if (expected := PMRoPEConfig.of(model, self.config.mode)) != self.config:
                raise InputError(
                    f"The camera positions have {self.config}, the transformer needs {expected}; create them with "
                    "PMRoPEConfig.of(transformer)."
                )
        if self.config.mode == "off":
            transformers = []
        return AttachedCameras(self, transformers, lambda layer: _PMPositioning(self, layer))


class _ZeroLinear(nn.Linear):
    """A zero-initialised linear layer, which is set to zero again when a sharded module is materialised."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class _Layer(nn.Module):
    """The linear layers of one block: ``phase`` W, ``value`` A and ``output`` B."""

    def __init__(self, config: PMRoPEConfig) -> None:
        super().__init__()
        dim = config.heads * config.head_dim
        self.phase = _ZeroLinear(SIZE, config.head_dim // 2, bias=False)
        self.value = _ZeroLinear(dim, dim) if config.mode == "full" else None
        self.output = _ZeroLinear(dim, dim) if config.mode == "full" else None


class _PMPositioning(Positioning):
    """The camera positions of one layer."""

    def __init__(self, owner: PMRoPE, layer: int) -> None:
        self.layer: Any = owner.layers[layer]

    def position(self, hidden: Tensor, carrier: Carrier) -> CameraPath:
        """The cameras of this forward pass."""
        return cameras_of(hidden, carrier)

    def enter(
        self, q: Tensor, k: Tensor, v: Tensor, rotary: tuple[Tensor, Tensor], position: CameraPath
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys rotated by base · exp(i W c), the same in all heads; values v_j + A (P_j⁻¹ v_j)."""
        # Products and a sum instead of a matmul, so that autocast and TF32 do not reduce the precision of the phases.
        vectors = position.vectors
        phase = (vectors[..., None, :] * self.layer.phase.weight.to(vectors.dtype)).sum(-1)
        rotary = add_phase(*rotary, phase)
        q, k = rotate(q, *rotary), rotate(k, *rotary)
        if self.layer.value is not None:
            v = v + _over_heads(self.layer.value, in_blocks(v, position.unprojection)).unflatten(-1, v.shape[2:]).to(v)
        return q, k, v

    def leave(self, y: Tensor, project: Callable[[Tensor], Tensor], position: CameraPath) -> Tensor:
        """The output o(y_i) + B (P_i y_i)."""
        out = project(y)
        if self.layer.output is None:
            return out
        return out + _over_heads(self.layer.output, in_blocks(y, position.projection)).to(out)


def _over_heads(linear: nn.Linear, x: Tensor) -> Tensor:
    return linear(x.flatten(2, 3).to(linear.weight.dtype))


def add_phase(
    cos: Float[Tensor, "_ tokens heads dim"],
    sin: Float[Tensor, "_ tokens heads dim"],
    phase: Float[Tensor, "batch frames _"],
) -> tuple[Float[Tensor, "_ tokens heads dim"], Float[Tensor, "_ tokens heads dim"]]:
    """Rotary tables (cos, sin) with an additional angle per frame and pair; unchanged where the angle is 0."""
    c, s = (x.unflatten(1, (phase.shape[1], -1)) for x in (cos[..., 0::2], sin[..., 1::2]))
    phase_c, phase_s = (x[:, :, None, None] for x in (phase.cos(), phase.sin()))
    rotated = c * phase_c - s * phase_s, s * phase_c + c * phase_s
    tables = [x.flatten(1, 2).repeat_interleave(2, dim=-1).to(cos.dtype) for x in rotated]
    return tables[0], tables[1]


def in_blocks(
    x: Float[Tensor, "batch tokens heads dim"], matrix: Float[Tensor, "#batch frames 4 4"]
) -> Float[Tensor, "batch tokens heads dim"]:
    """Multiply each block of four channels of a head by the matrix of the token's frame, in the wider of both dtypes.

    Without a matmul, so that autocast and TF32 do not reduce the precision.
    """
    wide = x.to(torch.promote_types(x.dtype, matrix.dtype)).unflatten(1, (matrix.shape[1], -1)).unflatten(-1, (-1, 4))
    columns = matrix[:, :, None, None, None].unbind(-1)
    x0, x1, x2, x3 = (part[..., None] for part in wide.unbind(-1))
    out = columns[0] * x0 + columns[1] * x1 + columns[2] * x2 + columns[3] * x3
    return out.flatten(-2).flatten(1, 2)
