"""`mix_branches`: the low tokens of one clip with the high tokens of another, to see what each branch carries."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from memkit.encoders.clips import check_clips, encode_clips
from memkit.encoders.dit_mem import DitMemEncoder
from memkit.encoders.frequency import FrequencyEncoder
from memkit.errors import InputError
from memkit.memory import Memory


def mix_branches(
    encoder: FrequencyEncoder | DitMemEncoder,
    low_from: Float[Tensor, "*shape"],
    high_from: Float[Tensor, "*same"],
    mask: Bool[Tensor, "*clips"] | None = None,
) -> Memory:
    """The memory of pairs of clips: low tokens from one clip, high tokens from the other.

    ``low_from`` and ``high_from`` are latents [B, N, C, T, H, W] of one shape, ``mask [B, N]`` is for both. Only one
    branch of each clip has an effect: a ``FrequencyEncoder`` is mixed before its self-attention, where the branches of
    a clip exchange information, so that its final low tokens would depend on the high ones. A ``DitMemEncoder`` attends
    within each branch, so its final tokens are mixed. A clip mixed with itself gives the encoder's own memory bit for
    bit. In the controls such as ``NoFilterEncoder``, "low" is the first branch, which shows what mixing does without
    filters. Raises ``InputError`` on shapes that do not fit.
    """
    if low_from.shape != high_from.shape:
        raise InputError(
            f"low_from is {tuple(low_from.shape)}, high_from {tuple(high_from.shape)}; give clips of one shape."
        )
    if isinstance(encoder, DitMemEncoder):
        high, low = encoder(high_from, mask), encoder(low_from, mask)
        half = high_from.shape[1]
        return replace(high, tokens=torch.cat([high.tokens[:, :half], low.tokens[:, half:]], dim=1))
    check_clips(low_from, mask, encoder.config.latent_channels)

    def encode(low: Tensor, high: Tensor) -> Tensor:
        return encoder.join(encoder.low(encoder.stem(low)), encoder.high(encoder.stem(high)))

    return encoder.with_gate(encode_clips(encode, encoder.out.weight.dtype, mask, low_from, high_from))
