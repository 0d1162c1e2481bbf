"""`mix_branches`: memory of one clip's low and another clip's high frequencies, to study what each branch encodes."""

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
    """Memory with the low tokens of the first clip and the high tokens of the second clip of each pair.

    Only one branch of each clip is used: a ``FrequencyEncoder`` is mixed before its self-attention, as that exchanges
    information between the branches of a clip; a ``DitMemEncoder`` attends within each branch, so its output tokens are
    mixed. A clip mixed with itself gives the encoder's own memory, bit for bit. In the controls such as
    ``NoFilterEncoder``, "low" is the first branch, which shows the effect of mixing without filters.

    Args:
        encoder: the encoder.
        low_from: latents [B, N, C, T, H, W] for the low-pass branch.
        high_from: latents of the same shape for the high-pass branch.
        mask: [B, N] for both, True for real clips.

    Raises:
        InputError: the shapes differ, or do not fit the encoder.
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
    check_clips(high_from, mask, encoder.config.latent_channels)

    def encode(low: Tensor, high: Tensor) -> Tensor:
        return encoder.join(encoder.low(encoder.stem(low)), encoder.high(encoder.stem(high)))

    return encoder.with_gate(encode_clips(encode, encoder.out.weight.dtype, mask, low_from, high_from))
