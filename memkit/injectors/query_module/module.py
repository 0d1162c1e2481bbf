"""`QueryModule`: a separate module whose queries retrieve context, a negative result of MemLearner (arXiv 2606.31734).

The paper compares it with `QueryLayers`: the same idea, in a separate module beside the model instead of in the model's
first layers. Trained from scratch, it receives almost no attention (9.16 dB); pre-trained with L1(Q, P), it is still
worse than query layers (16.56 dB, compared with 21.23 dB).

The paper gives no details, so the module is our reading: a Wan of the backbone's width, with as many blocks as there
are query layers, and with the attention connectivity of query layers. Q attends to C and, as there is no P, to itself;
context tokens are keys and values only, with cross-attention and feed-forward as usual. The final hidden states of Q
are memory tokens for all layers of the backbone.
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

from memkit.backbones.adapters.wan import WAN
from memkit.backbones.rotary import checked_positions, rotary_at
from memkit.checks import LAYERS, WIDTHS, check_fields, check_finite, check_floats, check_poses
from memkit.errors import InputError
from memkit.injectors.attention_recorder import AttentionRecorder
from memkit.injectors.camera_encoder import CameraEncoder, check_annotations
from memkit.injectors.query_layers.chunk import Pass
from memkit.injectors.query_module.attention import Carried, QueryModuleProcessor
from memkit.memory import Memory
from memkit.pretrained import Pretrained


@dataclass(frozen=True)
class QueryModuleConfig:
    """Sizes of a `QueryModule`, which are those of the backbone except for the number of layers."""

    layers: int = 5
    """Number of transformer blocks; for a comparison with query layers, the number of those."""
    heads: int = 12
    """Number of attention heads."""
    head_dim: int = 128
    """Width of an attention head."""
    ffn_dim: int = 8960
    """Hidden width of the feed-forward layers."""
    channels: int = 16
    """Number of latent channels."""
    text_dim: int = 4096
    """Width of the text encoder's output."""
    cameras: tuple[str, ...] = ("exact",)
    """Kinds of pose annotation, such as rendered ("exact") or estimated; each kind has its own encoder."""

    def __post_init__(self) -> None:
        check_fields(
            self,
            layers=LAYERS,
            heads=LAYERS,
            head_dim=WIDTHS,
            ffn_dim=(1, 10 * WIDTHS[1]),
            channels=WIDTHS,
            text_dim=WIDTHS,
        )
        check_annotations(self.cameras)

    @property
    def dim(self) -> int:
        """Width of the tokens and of the backbone."""
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
    """Query tokens that retrieve context in a separate module, as memory for the backbone.

        module = QueryModule(QueryModuleConfig.wan_1_3b())
        memory = module(noise, context, text)  # once per chunk and text, for all denoising steps
        with SelfAttentionConcat(memory).attach(pipe.transformer):
            latents = pipe(prompt, output_type="latent").frames

    ``wan`` is a stock Wan transformer, initialised by diffusers and not from the backbone, of which the module uses the
    blocks, the patch and text embeddings and the output head. The timestep is 0 for all tokens, so Wan's time embedding
    is a learned constant modulation. ``module.wan.enable_gradient_checkpointing()`` saves memory in training.
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
        """Memory with the final hidden states of the queries: one token per patch of Q, in the order of the patches.

        Args:
            query_noise: noise for Q [B,C,F,H,W], with the number of frames to be generated.
            context: clean latents of the context frames [B or 1,C,N,H,W], or None.
            text: text embeddings as for the backbone's transformer [B or 1,L,D_text].
            positions: positions of the frames of Q, equal to those of P; by default 0…F−1.
            context_positions: positions of the context frames, which may be negative or have gaps; by default −N…−1.
            cameras: poses of the frames of Q, equal to those of P [B or 1,F,12]; see
                `memkit.cameras.relative_pose_vectors`.
            context_cameras: poses of the context frames [B or 1,N,12], relative to the same camera.
            annotation: kind of the poses, one of the config's ``cameras``.
            recorder: if given, records the share of Q's attention on each context frame, as the series "context".

        Raises:
            InputError: latents, text, positions or poses do not fit each other or the config, or are not finite.
        """
        if (cameras is not None or context_cameras is not None) and annotation not in self.config.cameras:
            raise InputError(f"There is no encoder for {annotation!r} poses; choose one of {self.config.cameras}.")
        for name, poses in (("cameras", cameras), ("context_cameras", context_cameras)):
            if poses is not None:
                check_poses(name, poses)
        self._check(query_noise, context, text)
        batch, context_frames = query_noise.shape[0], 0 if context is None else context.shape[2]
        at = _checked_frames("query", range(query_noise.shape[2]), positions, cameras, batch)
        context_at = _checked_frames("context", range(-context_frames, 0), context_positions, context_cameras, batch)
        time = torch.zeros(batch, device=query_noise.device)
        _, temb, words, _ = self.wan.condition_embedder(time, text.to(self._dtype).expand(batch, -1, -1))
        temb = temb.unflatten(1, (6, -1))
        of_context = Pass(context_at, context_cameras, annotation, of_context=True)
        if context is not None and context_frames:
            self._run(context, temb, words, of_context)
        row = None if recorder is None else recorder.begin(self.config.layers, seen=context_at)
        kept = [of_context.kept[layer] for layer in sorted(of_context.kept)]
        of_query = Pass(at, cameras, annotation, of_context=False, context_frames=context_frames, context=kept, row=row)
        return Memory(self._run(query_noise, temb, words, of_query))

    def predict(
        self, tokens: Float[Tensor, "batch _ dim"], frames: int, height: int, width: int
    ) -> Float[Tensor, "batch channels frames height width"]:
        """Latents predicted from the tokens of Q by Wan's output head; used only for pre-training.

        Raises:
            InputError: there is not one token per patch of ``frames`` latent frames of ``height``×``width``.
        """
        _, down, across = self.wan.config.patch_size
        grid = {"f": frames, "h": height // down, "w": width // across}
        expected = (frames * grid["h"] * grid["w"], self.config.dim)
        if tuple(tokens.shape[1:]) != expected or height % down or width % across:
            raise InputError(
                f"{frames} frames of {height}×{width} latents have {expected[0]} tokens of width {expected[1]}, but "
                f"these are {list(tokens.shape[1:])}; give the tokens and the size of the same Q."
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
        check_finite("The noise for Q", query, "[B, C, F, H, W]")
        check_floats("The text", text, "[B, L, D]")
        if context is not None:
            check_finite("The context", context, "[B, C, N, H, W]")
        _, down, across = self.wan.config.patch_size
        batch, channels, frames, height, width = query.shape
        if channels != self.config.channels or not frames or height % down or width % across:
            raise InputError(
                f"Q has latents {list(query.shape)}; give {self.config.channels} channels, at least one frame, and "
                f"height and width in multiples of {down} and {across}."
            )
        if context is not None:
            rows, *shape = context.shape
            if rows not in (1, batch) or [shape[0], *shape[2:]] != [channels, height, width]:
                raise InputError(
                    f"The context has latents {list(context.shape)}, Q {list(query.shape)}; "
                    "give one context for all samples or one per sample, of the same channels and size."
                )
        if text.shape[0] not in (1, batch) or text.shape[2] != self.config.text_dim:
            raise InputError(
                f"The text has the shape {list(text.shape)}; give [{batch} or 1, words, {self.config.text_dim}]."
            )

    def _run(self, latents: Tensor, temb: Tensor, words: Tensor, current: Pass) -> Tensor:
        """Run Q through all blocks; or C, up to its keys and values in the last block."""
        wan = self.wan
        hidden = wan.patch_embedding(latents.to(self._dtype)).flatten(2).mT.expand(len(temb), -1, -1)
        _, down, across = wan.config.patch_size
        rotary = rotary_at(wan.rope, current.positions, latents.shape[3] // down, latents.shape[4] // across)
        tokens_per_frame = hidden.shape[1] // len(current.positions)
        for i, block in enumerate(wan.blocks):
            cameras = None
            if current.poses is not None:
                cameras = self.cameras[current.kind](current.poses.to(hidden.device), i)
                cameras = cameras.repeat_interleave(tokens_per_frame, dim=1)
            carried = Carried(rotary, cameras, i, current)
            if current.of_context and i == len(wan.blocks) - 1:
                block.attn1(WAN.modulate(block, hidden, temb).type_as(hidden), None, None, carried)
            elif torch.is_grad_enabled() and wan.gradient_checkpointing:
                hidden = wan._gradient_checkpointing_func(block, hidden, words, temb, carried)
            else:
                hidden = block(hidden, words, temb, carried)
        return hidden


def query_module_loss(
    module: QueryModule, memory: Memory, latents: Float[Tensor, "batch channels frames height width"]
) -> Float[Tensor, " batch"]:
    """L1(Q, P), the paper's pre-training loss: mean absolute error per sample, in fp32, to the clean latents of P.

    The paper does not specify what it compares; latents predicted by an output head are our reading.
    """
    prediction = module.predict(memory.tokens, *latents.shape[2:])
    return (prediction.float() - latents.float()).abs().flatten(1).mean(1)


def _checked_frames(
    name: str, default: range, positions: Sequence[int] | None, poses: Tensor | None, batch: int
) -> tuple[int, ...]:
    frames, at = len(default), default if positions is None else positions
    if len(at) != frames or (poses is not None and poses.shape[:2] not in ((1, frames), (batch, frames))):
        raise InputError(
            f"The {name} has {frames} frames; give one position and, if any, one pose for each, with the poses of one "
            f"sample or of {batch}."
        )
    return checked_positions(at) if frames else ()
