"""`QueryModule`: a separate module whose queries fetch context, the paper's failure case (MemLearner, 2606.31734).

The paper sets it against `QueryLayers`: the same idea, in a module of its own beside the model instead of in the
model's first layers. Trained from scratch it fails: hardly any attention falls on it (9.16 dB), and pre-trained with
L1(Q, P) it still falls short (16.56 dB, 21.23 with query layers).

The paper says no more than that, so the module is our reading: a Wan of as many blocks as there are query layers, of
the backbone's width, with the rules of the query layers. Q sees C and, having no P to see, itself; C never asks, and
goes through cross-attention and feed-forward. What Q is at the end is memory, for all layers of the backbone to see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from memkit.backbones.rotary import checked_positions, rotary_at
from memkit.backbones.wan_attention import modulate
from memkit.errors import InputError
from memkit.injectors.attention_recorder import AttentionRecorder
from memkit.injectors.camera_encoder import CameraEncoder
from memkit.injectors.query_layers.chunk import Pass
from memkit.injectors.query_module.attention import Carried, QueryModuleProcessor
from memkit.memory import Memory
from memkit.pretrained import Pretrained


@dataclass(frozen=True)
class QueryModuleConfig:
    """Sizes, which are the backbone's, and the number of layers."""

    layers: int = 5
    """Blocks; to compare with query layers, as many as there are of those."""
    heads: int = 12
    head_dim: int = 128
    ffn_dim: int = 8960
    channels: int = 16
    """Of the latents."""
    text_dim: int = 4096
    """Width of the text encoder's output."""
    cameras: tuple[str, ...] = ("exact",)
    """Kinds of pose annotation, each with an encoder of its own: rendered ("exact"), estimated, …"""

    def __post_init__(self) -> None:
        for name in ("layers", "heads", "head_dim", "ffn_dim", "channels", "text_dim"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; give at least 1.")

    @property
    def dim(self) -> int:
        """Width of the tokens, and of the backbone."""
        return self.heads * self.head_dim

    @classmethod
    def tiny(cls) -> QueryModuleConfig:
        """For ``WanBackbone.tiny()``: 2 layers; 1.6 M parameters."""
        return cls(layers=2, heads=4, head_dim=48, ffn_dim=768, text_dim=128)

    @classmethod
    def wan_1_3b(cls) -> QueryModuleConfig:
        """For Wan2.1 T2V 1.3B: 5 layers; 258 M parameters."""
        return cls()

    @classmethod
    def wan_5b(cls) -> QueryModuleConfig:
        """For Wan2.2 TI2V 5B: 5 layers; 909 M parameters."""
        return cls(heads=24, ffn_dim=14336, channels=48)


class QueryModule(Pretrained, nn.Module):
    """Query tokens that fetch the context by themselves, as memory for the backbone.

        module = QueryModule(QueryModuleConfig.wan_1_3b())
        memory = module(noise, context, text)  # once a chunk and text: it knows of no denoising step
        with SelfAttentionConcat(memory).attach(pipe.transformer):
            latents = pipe(prompt, output_type="latent").frames

    ``wan`` holds its blocks, patch and text embedding and output head: parts of diffusers' own Wan, with the weights
    that diffusers gives them, never those of the backbone. Timestep 0 for all tokens goes through Wan's time embedding
    and so is but a learned modulation. ``module.wan.enable_gradient_checkpointing()`` saves memory in training.
    """

    config_class = QueryModuleConfig

    def __init__(self, config: QueryModuleConfig) -> None:
        super().__init__()
        self.config = config
        self.wan: Any = WanTransformer3DModel(
            num_layers=config.layers,
            num_attention_heads=config.heads,
            attention_head_dim=config.head_dim,
            ffn_dim=config.ffn_dim,
            in_channels=config.channels,
            out_channels=config.channels,
            text_dim=config.text_dim,
        )
        for block in self.wan.blocks:
            block.attn1.set_processor(QueryModuleProcessor())
        self.cameras = nn.ModuleDict({name: CameraEncoder(config.dim, config.layers) for name in config.cameras})

    def forward(
        self,
        query_noise: Float[Tensor, "batch _ frames height width"],
        context: Float[Tensor, "_ _ context_frames _ _"] | None,
        text: Float[Tensor, "_ words text_dim"],
        *,
        positions: Sequence[int] | None = None,
        context_positions: Sequence[int] | None = None,
        cameras: Float[Tensor, "_ _ 12"] | None = None,
        context_cameras: Float[Tensor, "_ _ 12"] | None = None,
        annotation: str = "exact",
        recorder: AttentionRecorder | None = None,
    ) -> Memory:
        """What the queries know at the end: one token for each patch of Q, in its order.

        Args:
            query_noise: noise of Q [B,C,F,H,W], as many frames as are to be made.
            context: clean latents [B or 1,C,N,H,W] of the past, or None.
            text: as the backbone's transformer takes it [B or 1,L,D_text]; its embedding is the module's own.
            positions: of Q's frames, which are P's; 0…F−1 without.
            context_positions: of C's frames, negative or with gaps; −N…−1 without.
            cameras: poses of Q's frames, which are P's [B or 1,F,12]; see `memkit.cameras.relative_pose_vectors`.
            context_cameras: poses of C's frames [B or 1,N,12], relative to the same camera.
            annotation: the kind of the poses, one of the config's ``cameras``.
            recorder: if given, records the share of Q's attention on each frame of the context, as the series
                "context".

        Raises:
            InputError: latents, text, positions or poses that do not fit each other or the config.
        """
        if (cameras is not None or context_cameras is not None) and annotation not in self.config.cameras:
            raise InputError(f"There is no encoder for {annotation!r} poses; there are {self.config.cameras}.")
        self._check(query_noise, context, text)
        batch, past = query_noise.shape[0], 0 if context is None else context.shape[2]
        at = _places("query", range(query_noise.shape[2]), positions, cameras, batch)
        context_at = _places("context", range(-past, 0), context_positions, context_cameras, batch)
        time = torch.zeros(batch, device=query_noise.device)
        _, temb, words, _ = self.wan.condition_embedder(time, text.to(self._dtype).expand(batch, -1, -1))
        temb = temb.unflatten(1, (6, -1))
        seen = Pass(context_at, context_cameras, annotation, of_context=True)
        if context is not None and past:
            self._run(context, temb, words, seen)
        row = None if recorder is None else recorder.begin(self.config.layers, seen=context_at)
        kept = [seen.kept[i] for i in sorted(seen.kept)]
        asks = Pass(at, cameras, annotation, of_context=False, context_frames=past, context=kept, row=row)
        return Memory(self._run(query_noise, temb, words, asks))

    def predict(
        self, tokens: Float[Tensor, "batch _ dim"], frames: int, height: int, width: int
    ) -> Float[Tensor, "batch channels frames height width"]:
        """The latents that the tokens of Q stand for, by Wan's own output head; for pre-training alone.

        Raises:
            InputError: not one token for each patch of so many frames of this size.
        """
        _, down, across = self.wan.config.patch_size
        grid = {"f": frames, "h": height // down, "w": width // across}
        wanted = (frames * grid["h"] * grid["w"], self.config.dim)
        if tuple(tokens.shape[1:]) != wanted or height % down or width % across:
            raise InputError(
                f"{frames} frames of {height}×{width} latents are {wanted[0]} tokens of width {wanted[1]}, these are "
                f"{list(tokens.shape[1:])}; give the tokens and the size of the same Q."
            )
        wan = self.wan
        time = wan.condition_embedder.timesteps_proj(torch.zeros(1, device=tokens.device)).to(self._dtype)
        shift, scale = (wan.scale_shift_table + wan.condition_embedder.time_embedder(time)[:, None]).chunk(2, dim=1)
        out = wan.proj_out((wan.norm_out(tokens.float()) * (1 + scale) + shift).to(self._dtype))
        return rearrange(out, "b (f h w) (i j c) -> b c f (h i) (w j)", i=down, j=across, **grid)

    @property
    def _dtype(self) -> torch.dtype:
        return self.wan.patch_embedding.weight.dtype

    def _check(self, query: Tensor, context: Tensor | None, text: Tensor) -> None:
        _, down, across = self.wan.config.patch_size
        batch, channels, frames, height, width = query.shape
        if channels != self.config.channels or not frames or height % down or width % across:
            raise InputError(
                f"Q has latents {list(query.shape)}; give {self.config.channels} channels, a frame at least, and a "
                f"height and width in multiples of {down} and {across}."
            )
        if context is not None:
            rows, *shape = context.shape
            if rows not in (1, batch) or [shape[0], *shape[2:]] != [channels, height, width]:
                raise InputError(
                    f"The context has latents {list(context.shape)}, Q {list(query.shape)}; "
                    "give one row or one a sample, of the same channels and size."
                )
        if text.shape[0] not in (1, batch) or text.shape[2] != self.config.text_dim:
            raise InputError(
                f"The text has the shape {list(text.shape)}; give [{batch} or 1, words, {self.config.text_dim}]."
            )

    def _run(self, latents: Tensor, temb: Tensor, words: Tensor, made: Pass) -> Tensor:
        """Q through all blocks; or C, as far as the keys and values of the last."""
        wan = self.wan
        hidden = wan.patch_embedding(latents.to(self._dtype)).flatten(2).mT.expand(len(temb), -1, -1)
        _, down, across = wan.config.patch_size
        rotary = rotary_at(wan.rope, made.positions, latents.shape[3] // down, latents.shape[4] // across)
        tokens_per_frame = hidden.shape[1] // len(made.positions)
        for i, block in enumerate(wan.blocks):
            added = None
            if made.poses is not None:
                added = self.cameras[made.kind](made.poses.to(hidden.device), i).repeat_interleave(
                    tokens_per_frame, dim=1
                )
            carried = Carried(rotary, added, i, made)
            if made.of_context and i == len(wan.blocks) - 1:
                block.attn1(modulate(block, hidden, temb).type_as(hidden), None, None, carried)
            elif torch.is_grad_enabled() and wan.gradient_checkpointing:
                hidden = wan._gradient_checkpointing_func(block, hidden, words, temb, carried)
            else:
                hidden = block(hidden, words, temb, carried)
        return hidden


def query_module_loss(
    module: QueryModule, memory: Memory, latents: Float[Tensor, "batch channels frames height width"]
) -> Float[Tensor, " batch"]:
    """L1(Q, P), the paper's pre-training: mean absolute error of each sample, in fp32, against the clean latents of P.

    The paper does not say where it is taken; on latents, by an output head, is our reading.
    """
    made = module.predict(memory.tokens, *latents.shape[2:])
    return (made.float() - latents.float()).abs().flatten(1).mean(1)


def _places(
    name: str, usual: range, positions: Sequence[int] | None, poses: Tensor | None, batch: int
) -> tuple[int, ...]:
    frames, at = len(usual), usual if positions is None else positions
    if len(at) != frames or (poses is not None and poses.shape[:2] not in ((1, frames), (batch, frames))):
        raise InputError(
            f"The {name} has {frames} frames; give one position and, if any, one pose for each, "
            f"poses in one row or in {batch}."
        )
    return checked_positions(at) if frames else ()
