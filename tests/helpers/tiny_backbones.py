"""Tiny random models of diffusers' stock classes, each with a self-attention by its definition to compare with.

To add a model: write `make`, `call` and `modulated` for it, a `Dense` processor if its attention is not Wan's, and add
an entry to `BACKBONES` in `tests/helpers/backbones.py`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import (
    LTXVideoTransformer3DModel,
    SkyReelsV2Transformer3DModel,
    WanAnimateTransformer3DModel,
    WanTransformer3DModel,
    WanVACETransformer3DModel,
)
from torch import Tensor, nn

from memkit.backbones import adapter_of
from tests.helpers.random_wan import SMALL

FRAMES, SIDE = 4, 4


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class TinyBackbone:
    """A model class for the tests of adapters."""

    make: Callable[[], Any]
    """A random model in evaluation mode, the same at each call."""
    call: Callable[..., Tensor]
    """``call(model, frames=slice(None))``: a forward of two samples on these of the ``num_frames`` frames."""
    modulated: Callable[[nn.Module, Mapping[str, Any], Tensor], Tensor]
    """The tokens [B,M,D] normed and modulated as a block, called with these arguments, does with its own tokens."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Attachables (``tests/helpers/attachables.py``) that the model cannot have, with a pattern of the error."""
    frame_dim: int = 2
    """The dimension of frames in the output; tokens in the order of their frames will do."""
    num_frames: int = FRAMES
    control: Callable[[Any], tuple[nn.Module, ...]] = lambda model: ()
    """Blocks that memory does not join and in which, while streaming, each chunk sees itself alone."""
    joint: bool = False
    """Whether it attends to text and video jointly."""
    exact: bool = True
    """Whether a sample without memory is bit-identical to the stock model's beside one with memory, not up to rounding.
    """
    dense: type[Dense] | None = None
    """The processor of its self-attention by definition; by default `Dense`."""


class Dense:
    """Self-attention by its definition: all logits in float64, one mask, rotation by complex numbers.

    Memory [1 or B,M,D] joins the keys and values; ``allowed`` [S,S] is true where the query of a row sees a column.
    """

    def __init__(self, backbone: TinyBackbone, memory: Tensor | None, allowed: Tensor | None) -> None:
        self.backbone, self.memory, self.allowed = backbone, memory, allowed
        self.block: Any = None
        self.arguments: Mapping[str, Any] = {}

    def hook(self, block: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        names = adapter_of_block(self.backbone)
        self.block, self.arguments = block, {**dict(zip(names, args, strict=False)), **kwargs}

    def __call__(
        self, attn: Any, hidden_states: Tensor, text: Any = None, attention_mask: Any = None, rotary_emb: Any = None
    ) -> Tensor:
        q, k, v = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(hidden_states)), attn.to_v(hidden_states)
        q, k, v = (x.unflatten(-1, (attn.heads, -1)).double() for x in (q, k, v))
        q, k = turned(q, *rotary_emb), turned(k, *rotary_emb)
        if self.memory is not None:
            tokens = self.backbone.modulated(self.block, self.arguments, self.memory.expand(len(q), -1, -1))
            more = attn.norm_k(attn.to_k(tokens)), attn.to_v(tokens)
            k, v = (
                torch.cat([x, y.unflatten(-1, (attn.heads, -1)).double()], 1) for x, y in zip((k, v), more, strict=True)
            )
        return attn.to_out[0](attended(q, k, v, self.allowed).flatten(2).float())


def attended(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
    """Softmax attention over [B,S,H,D]; keys beyond the columns of ``allowed`` are visible to all."""
    logits = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[-1])
    if allowed is not None:
        allowed = F.pad(allowed, (0, k.shape[1] - allowed.shape[1]), value=True)
        logits = logits.masked_fill(~allowed, -torch.inf)
    return torch.einsum("bhqk,bkhd->bqhd", logits.softmax(-1), v)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pairs of channels of x [B,S,H,D] as complex numbers, turned by tables [B,S,1,D] or [B,S,H·D]."""
    angles = torch.complex(cos.double(), sin.double())[..., ::2]
    if angles.ndim == 3:
        angles = angles.unflatten(-1, (x.shape[2], -1))
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * angles).flatten(-2)


def adapter_of_block(backbone: TinyBackbone) -> tuple[str, ...]:
    return adapter_of(backbone.make()).block_arguments


@contextlib.contextmanager
def by_definition(
    backbone: TinyBackbone, model: Any, memory: Tensor | None = None, chunk: int | None = None
) -> Iterator[None]:
    """Inside, the model attends by `Dense`, also to memory, and frames see their own chunk and earlier ones."""
    adapter, undo = adapter_of(model), contextlib.ExitStack()
    with undo:
        for block in (*adapter.blocks(model), *backbone.control(model)):
            joins = block in adapter.blocks(model)
            allowed = None if chunk is None else visible(model, backbone.num_frames, chunk, causal=joins)
            attn = adapter.attention(block)
            undo.callback(setattr, attn, "processor", attn.processor)
            attn.processor = dense = (backbone.dense or Dense)(backbone, memory if joins else None, allowed)
            undo.callback(block.register_forward_pre_hook(dense.hook, with_kwargs=True).remove)
        yield


def visible(model: Any, frames: int, chunk: int, causal: bool) -> Tensor:
    """[S,S]: a token sees those of its chunk of frames and, if causal, those of earlier ones."""
    _, down, across = adapter_of(model).sizes(model).patch_size
    of = torch.arange(frames).repeat_interleave((SIDE // down) * (SIDE // across)) // chunk
    return of[:, None] >= of if causal else of[:, None] == of


# -- Wan and its relatives ---------------------------------------------------------------------------------------------

LATENTS, TEXT = seeded(2, 16, FRAMES, SIDE, SIDE, seed=1), seeded(2, 6, SMALL["text_dim"], seed=2)
CONTROL, TIMESTEP = seeded(2, 8, FRAMES, SIDE, SIDE, seed=3), torch.tensor([700.0, 150.0])


def seeded_model(cls: Any, **settings: Any) -> Any:
    torch.manual_seed(0)
    return cls(**settings).eval()


def wan_modulated(block: Any, named: Mapping[str, Any], tokens: Tensor) -> Tensor:
    shift, scale = (block.scale_shift_table + named["temb"])[:, :2].split(1, dim=1)
    return F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6) * (1 + scale) + shift


def wan_call(model: Any, frames: slice = slice(None), timestep: Tensor = TIMESTEP, **more: Any) -> Tensor:
    return model(LATENTS[:, :, frames], timestep, TEXT, return_dict=False, **more)[0]


def vace_call(model: Any, frames: slice = slice(None)) -> Tensor:
    return wan_call(model, frames, control_hidden_states=CONTROL[:, :, frames])


ANIMATE = {
    "motion_encoder_channel_sizes": {"4": 16, "8": 16, "16": 16},
    "motion_encoder_size": 16,
    "motion_style_dim": 8,
    "motion_dim": 4,
    "motion_encoder_dim": 16,
    "face_encoder_hidden_dim": 16,
    "face_encoder_num_heads": 2,
    "inject_face_latents_blocks": 3,
}


def animate_call(model: Any) -> Tensor:
    latents = torch.cat([LATENTS, LATENTS.flip(1), LATENTS[:, :4]], dim=1)
    face, pose = seeded(2, 3, 4 * (FRAMES - 2) + 1, 16, 16, seed=4), seeded(2, 16, FRAMES - 1, SIDE, SIDE, seed=5)
    return model(latents, TIMESTEP, TEXT, None, pose, face, return_dict=False)[0]


WAN = TinyBackbone(lambda: seeded_model(WanTransformer3DModel, **SMALL), wan_call, wan_modulated)
WAN_VACE = TinyBackbone(
    lambda: seeded_model(WanVACETransformer3DModel, **SMALL, vace_layers=[0, 2], vace_in_channels=8),
    vace_call,
    wan_modulated,
    refused={"frame_context": "per token", "teacher_forcing": "per token", "query_layers": "no control latents"},
    control=lambda model: tuple(model.vace_blocks),
)
WAN_ANIMATE = TinyBackbone(
    lambda: seeded_model(
        WanAnimateTransformer3DModel, **{**SMALL, "in_channels": 36}, latent_channels=16, image_dim=None, **ANIMATE
    ),
    animate_call,
    wan_modulated,
    refused={
        "kv_cache": "reference image",
        "state_space": "reference image",
        "frame_context": "per token",
        "teacher_forcing": "per token",
        "query_layers": "no poses and faces",
    },
)
SKYREELS_V2 = TinyBackbone(
    lambda: seeded_model(SkyReelsV2Transformer3DModel, **SMALL),
    wan_call,
    wan_modulated,
    refused={"frame_context": "per token"},
)

# -- LTX ---------------------------------------------------------------------------------------------------------------

LTX_SIZES = {
    "in_channels": 16,
    "out_channels": 16,
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "cross_attention_dim": 48,
    "num_layers": 3,
    "caption_channels": 32,
}


def ltx_call(model: Any, frames: slice = slice(None), **changed: Any) -> Tensor:
    x = LATENTS[:, :, frames]
    named = {
        "hidden_states": x.flatten(2).mT,
        "encoder_hidden_states": TEXT,
        "timestep": TIMESTEP,
        "encoder_attention_mask": torch.ones(2, TEXT.shape[1]),
        **dict(zip(("num_frames", "height", "width"), x.shape[2:], strict=True)),
        "rope_interpolation_scale": (8 / 25, 32, 32),
    }
    return model(**{**named, **changed}, return_dict=False)[0]


def ltx_modulated(block: Any, named: Mapping[str, Any], tokens: Tensor) -> Tensor:
    shift, scale = (block.scale_shift_table + named["temb"].view(len(tokens), 6, -1))[:, :2].split(1, dim=1)
    return tokens * (tokens.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * (1 + scale) + shift


LTX = TinyBackbone(
    lambda: seeded_model(LTXVideoTransformer3DModel, **LTX_SIZES),
    ltx_call,
    ltx_modulated,
    refused=dict.fromkeys(("frame_context", "teacher_forcing", "query_layers"), "sequence of tokens"),
    frame_dim=1,
)
