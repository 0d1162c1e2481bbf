"""`check_disentanglement`: do the low tokens of an encoder follow slow content, and its high tokens fast content?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from memkit.checks import SEEDS, WIDTHS, check_list, check_number, check_whole, shown
from memkit.errors import InputError
from memkit.memory import Memory
from memkit.testing.measures import normal
from memkit.testing.models import evaluating
from memkit.testing.report import Properties, Report

Split = Callable[[Memory], tuple[Tensor, Tensor]]
STEP = 0.03
"""Amplitude of a change, in shares of that of the clip."""


def check_disentanglement(
    encoder: Callable[..., Memory],
    *,
    split: Split | None = None,
    channels: int | None = None,
    size: tuple[int, int, int] = (16, 32, 32),
    slow: float = 0.04,
    fast: tuple[float, float] = (0.375, 0.5),
    least_db: float = 6.0,
    clips: int = 3,
    seed: int = 0,
) -> Report:
    """Check that slow content alone moves the low tokens and hardly the high ones, and fast content the reverse.

    Each clip is slow noise, and is changed twice by equal amounts: by other slow noise and by fast noise. The
    selectivity of the low tokens is how much further, in decibels, the slow change moves them than the fast change;
    that of the high tokens is the opposite. The report has both and their mean. The mean is 0 dB if low and high tokens
    respond alike, whatever they respond to: it is the logarithm of a cross-ratio, so that neither the scale of the
    tokens nor a preference of the whole encoder for one kind of content counts.

    The tokens are those that the encoder returns. Layers that exchange information between the branches, after they are
    trained, may end the separation that the filters create: the check then says so.

    Args:
        encoder: maps latents [B, N, C, T, H, W] to `Memory`.
        split: maps the memory of one clip [1, 1, C, T, H, W] to its low tokens and its high tokens; by default
            ``encoder.low_and_high``, which `FrequencyEncoder` and `DitMemEncoder` have.
        channels: number of latent channels; by default that of ``encoder.config``.
        size: frames, rows and columns of the clips.
        slow: highest frequency of slow content in time and space, in cycles per latent cell.
        fast: lowest and highest frequency in time of fast content, in cycles per latent frame. Fast content is slow in
            space, so that strides in space do not alias it; choose frequencies that the strides in time can represent.
        least_db: lowest selectivity of the low and of the high tokens; 6 dB is twice as far.
        clips: number of clips.
        seed: determines the clips.

    Raises:
        CheckFailed: the low or the high tokens are less selective than that; the message has all three figures.
        InputError: there is no way to tell low tokens from high ones, or ``size`` has no fast frequency.
    """
    if not callable(encoder):
        raise InputError(f"The encoder is {shown(encoder)}; give one.")
    if channels is not None:
        check_whole("channels", channels, *WIDTHS)
    for name, values, number in (("size", size, 3), ("fast", fast, 2)):
        if len(check_list(name, values, "numbers")) != number:
            raise InputError(f"{name} is {shown(values)}; give {number} numbers.")
    for side in size:
        check_whole("A side of the clips", side, 1, 10_000)
    for name, frequency in (("slow", slow), ("fast[0]", fast[0]), ("fast[1]", fast[1])):
        check_number(name, frequency, 0, 0.5)
    check_number("least_db", least_db, -1000, 1000)
    check_whole("clips", clips, 1, 10_000)
    check_whole("seed", seed, *SEEDS)
    count = channels or getattr(getattr(encoder, "config", None), "latent_channels", 16)
    with evaluating(encoder):
        low_db, high_db = _selectivity(encoder, _split_of(encoder, split), count, size, slow, fast, clips, seed)
    mean = (low_db + high_db) / 2
    remedy = (
        f"The selectivity of the low tokens is {low_db:.1f} dB, that of the high tokens {high_db:.1f} dB, their mean "
        f"{mean:.1f} dB, which is 0 without any separation. Filter the features of each branch with complementary "
        "filters (memkit.testing.check_filters), and let branches exchange information only after that."
    )
    properties = Properties("check_disentanglement", type(encoder).__name__, seed, examples=1)
    properties.at_least("selectivity of the low tokens", least_db, lambda: low_db, remedy, "dB")
    properties.at_least("selectivity of the high tokens", least_db, lambda: high_db, remedy, "dB")
    properties.at_least("mean selectivity", least_db, lambda: mean, remedy, "dB")
    return properties.report


def _split_of(encoder: Any, split: Split | None) -> Split:
    found = split or getattr(encoder, "low_and_high", None)
    if found is None:
        raise InputError(
            f"{type(encoder).__name__} does not say which tokens are low and which high; give "
            "split=lambda memory: (low tokens, high tokens), or the class a method low_and_high(memory)."
        )
    return found


@torch.no_grad()
def _selectivity(
    encoder: Callable[..., Memory],
    split: Split,
    channels: int,
    size: tuple[int, int, int],
    slow: float,
    fast: tuple[float, float],
    clips: int,
    seed: int,
) -> tuple[float, float]:
    """By how many decibels low tokens prefer slow changes, and high tokens fast ones."""
    time, height, width = torch.meshgrid(*[torch.fft.fftfreq(n).abs() for n in size], indexing="ij")
    smooth = (height.square() + width.square()).sqrt() <= slow
    is_slow = (time.square() + height.square() + width.square()).sqrt() <= slow
    is_fast = smooth & (time >= fast[0] - 1e-6) & (time <= fast[1] + 1e-6)
    if not is_fast.any():
        raise InputError(f"Clips of {size[0]} frames have no frequency from {fast[0]} to {fast[1]}; set size or fast.")
    seeds = iter(range(1000 * seed, 1000 * seed + 3 * clips))
    moved = torch.zeros(2, 2)  # of low and high tokens, by slow and fast content: sums of squares
    for _ in range(clips):
        clip = _noise(next(seeds), channels, is_slow)
        before = split(encoder(clip))
        for j, content in enumerate((is_slow, is_fast)):
            after = split(encoder(clip + STEP * _noise(next(seeds), channels, content)))
            for i in range(2):
                moved[i, j] += (after[i] - before[i]).float().square().sum()
    level = 10 * moved.clamp(min=1e-30).log10()
    return float(level[0, 0] - level[0, 1]), float(level[1, 1] - level[1, 0])


def _noise(seed: int, channels: int, content: Tensor) -> Tensor:
    """Noise of unit variance with these frequencies alone, [1, 1, C, T, H, W]."""
    spectrum = torch.fft.fftn(normal(seed, channels, *content.shape), dim=(-3, -2, -1))
    noise = torch.fft.ifftn(spectrum * content, dim=(-3, -2, -1)).real
    return (noise / noise.square().mean().sqrt())[None, None]
