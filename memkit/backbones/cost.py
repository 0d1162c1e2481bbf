"""What a Wan costs, from its sizes alone: parameters, tokens, and floating-point operations of a forward pass.

Operations are those of matrix products, two per multiply and add, as `torch.utils.flop_counter` counts them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from diffusers import WanTransformer3DModel

from memkit.backbones.presets import VideoFormat, WanPreset
from memkit.checks import check_whole
from memkit.errors import InputError

TEXT_TOKENS = 512
"""Text tokens of Wan's pipelines, with padding."""


@dataclass(frozen=True)
class WanCost:
    """One transformer of a published Wan (one expert, where it has two), and a video of this format.

    Raises `InputError` for a size that the model cannot have.
    """

    preset: WanPreset
    video: VideoFormat

    def __post_init__(self) -> None:
        across = self.stride[1] * self.preset.transformer["patch_size"][1]
        if self.video.height % across or self.video.width % across or (self.video.num_frames - 1) % self.stride[0]:
            raise InputError(
                f"A video of {self.video.num_frames} frames of {self.video.width}×{self.video.height} does not fit "
                f"this model; sides are multiples of {across}, and frames 1 more than a multiple of {self.stride[0]}."
            )

    @property
    def stride(self) -> tuple[int, int]:
        """Frames per latent frame, and pixels per latent cell: those of the autoencoder."""
        return 4, 16 if self.preset.transformer["out_channels"] == 48 else 8

    @property
    def latents(self) -> tuple[int, int, int, int]:
        """Channels, frames, height and width of the latents."""
        frames = 1 + (self.video.num_frames - 1) // self.stride[0]
        sides = self.video.height // self.stride[1], self.video.width // self.stride[1]
        return self.preset.transformer["out_channels"], frames, *sides

    @property
    def width(self) -> int:
        """Of the hidden states."""
        return self.preset.transformer["num_attention_heads"] * self.preset.transformer["attention_head_dim"]

    @property
    def tokens_per_frame(self) -> int:
        """Tokens of a latent frame."""
        _, down, across = self.preset.transformer["patch_size"]
        return (self.latents[2] // down) * (self.latents[3] // across)

    @property
    def tokens(self) -> int:
        """Tokens of the video."""
        return self.latents[1] * self.tokens_per_frame

    @cached_property
    def model(self) -> WanTransformer3DModel:
        """The transformer without memory for its weights, on the device "meta"."""
        with torch.device("meta"):
            return WanTransformer3DModel(**self.preset.transformer)

    @property
    def parameters(self) -> int:
        """Number of parameters of the transformer."""
        return sum(p.numel() for p in self.model.parameters())

    def operations(self, tokens: int | None = None, memory_tokens: int = 0, cached_tokens: int = 0) -> int:
        """Of one forward pass of one sample.

        Args:
            tokens: in the sequence; by default those of the video.
            memory_tokens: further keys and values of every self-attention, which each layer projects.
            cached_tokens: further keys and values that are projected already.
        """
        for name, count in (("memory_tokens", memory_tokens), ("cached_tokens", cached_tokens)):
            check_whole(name, count, 0)
        own, sizes, width = self.tokens if tokens is None else tokens, self.preset.transformer, self.width
        check_whole("tokens", own, 1)
        projections = 4 * own * width**2 + 2 * memory_tokens * width**2  # q, k, v and output; k and v of memory
        attention = 2 * own * (own + memory_tokens + cached_tokens) * width  # q·k, and the weights times v
        text = (2 * own + 2 * TEXT_TOKENS) * width**2 + 2 * own * TEXT_TOKENS * width
        layer = projections + attention + text + 2 * own * width * sizes["ffn_dim"]
        timesteps = own if self.preset.expand_timesteps else 1
        embedding = timesteps * width * (sizes["freq_dim"] + width + 6 * width)
        embedding += TEXT_TOKENS * width * (sizes["text_dim"] + width)
        patch = sizes["patch_size"][1] * sizes["patch_size"][2]
        ends = own * width * patch * (sizes["in_channels"] + sizes["out_channels"])
        return 2 * (sizes["num_layers"] * layer + embedding + ends)
