"""`check_filters`: the properties of a low-pass filter and its complementary high-pass filter."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor

from memkit.checks import check_number, shown
from memkit.errors import InputError
from memkit.testing.measures import decibels, largest, normal
from memkit.testing.report import Properties, Report
from memkit.testing.strategies import SEEDS, grids

Filter = Callable[[Tensor], Tensor]
AXES = (-3, -2, -1)
SIZE = (21, 30, 52)
"""Size of the clips of noise on which bands are separated."""
TONE = 24
"""Cells along each axis of the clips of tones."""
TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-6}


def check_filters(
    low: Filter,
    high: Filter,
    *,
    with_cutoff: Callable[[float], tuple[Filter, Filter]] | None = None,
    slow: float = 0.125,
    fast: float = 0.5,
    separation_db: float = 20.0,
    dtype: torch.dtype = torch.float64,
    examples: int = 20,
    seed: int = 0,
    shrink: bool = True,
) -> Report:
    """Check a pair of filters over time, height and width: they divide a clip into two bands, and change nothing else.

    For clips of any size: the outputs of the two filters add up to the input (partition of unity); both are linear, do
    not depend on the direction of an axis (symmetry), commute with circular shifts (shift equivariance), and scale each
    frequency by a real gain in [0, 1], so that the energy of the output is that of the spectrum times the squared gain
    (Parseval). Constants pass the low-pass filter and are removed by the high-pass filter. The gain is that of the
    impulse response.

    Args:
        low: the low-pass filter, which maps [..., T, H, W] of any size to the same shape and dtype.
        high: the high-pass filter.
        with_cutoff: creates both filters for a cut-off in cycles per latent cell. If given, a higher cut-off must never
            pass less through the low-pass filter, nor more through the high-pass filter.
        slow: radius in cycles per cell, √(f_t² + f_h² + f_w²), of the highest frequency that is slow.
        fast: radius of the lowest frequency that is fast.
        separation_db: by how many decibels the low-pass filter must pass slow content better than fast content, and the
            high-pass filter fast content better than slow content: noise, and tones along every axis and diagonal.
        dtype: of the clips. Errors are at most 1e-13 in float64, relative to clips of unit variance, 1e-6 in float32.
        examples: largest number of clips drawn for each property.
        seed: determines the clips.
        shrink: look for the smallest input that fails, which takes many more calls.

    Raises:
        CheckFailed: a property does not hold.
        InputError: a filter that cannot be called, a number that is out of range, or another dtype.
    """
    for name, part in (("low", low), ("high", high)):
        if not callable(part):
            raise InputError(f"{name} is {shown(part)}; give a filter.")
    if dtype not in TOLERANCE:
        raise InputError(f"dtype is {shown(dtype)}; give torch.float64 or torch.float32.")
    check_number("slow", slow, 0, 1)
    check_number("fast", fast, 0, 1)
    check_number("separation_db", separation_db, 0, 1000)
    properties = Properties("check_filters", f"{low}, {high}", seed, examples, shrink)
    pair, limit = {"low-pass": low, "high-pass": high}, TOLERANCE[dtype]
    clips = st.builds(
        lambda seed, size, batch: normal(seed, *batch, *size, dtype=dtype),
        SEEDS,
        grids(7, 9, 9),
        st.sampled_from([(), (2,), (2, 3)]),
    )
    properties.at_most(
        "partition of unity",
        limit,
        lambda x: _error(low(x) + high(x), x),
        "Define the high-pass gain as 1 − the low-pass gain, so that low(x) + high(x) = x.",
        x=clips,
    )
    _check_linear(properties, pair, clips, limit)
    for name, filter in pair.items():
        properties.at_most(
            f"symmetry of the {name} filter",
            limit,
            lambda x, axis, f=filter: _error(f(x.flip(axis)), f(x).flip(axis)),
            "Frequencies f and −f need the same gain on every axis: compute it from |fftfreq|, not the bin number.",
            x=clips,
            axis=st.sampled_from(AXES),
        )
        properties.at_most(
            f"shift equivariance of the {name} filter",
            limit,
            lambda x, shift, f=filter: _error(f(x.roll(shift, AXES)), f(x).roll(shift, AXES)),
            "Multiply the spectrum by a gain, or convolve with circular padding.",
            x=clips,
            shift=st.tuples(*[st.integers(-4, 4)] * 3),
        )
        properties.at_most(
            f"Parseval of the {name} filter",
            100 * limit,
            lambda x, f=filter: _energy_error(f, x),
            "Scale each frequency by a gain, and use one normalisation of the FFT in both directions.",
            x=clips,
        )
        properties.at_most(
            f"gain of the {name} filter outside [0, 1]",
            100 * limit,
            lambda size, f=filter: _outside(_gain(f, size, dtype)),
            "A zero-phase filter has a real gain between 0 (removed) and 1 (kept).",
            size=grids(7, 9, 9),
        )
    _check_constants(properties, low, high, limit)
    if with_cutoff is None:
        properties.skip("monotone in the cut-off (give with_cutoff=)")
    else:
        _check_monotone(properties, with_cutoff, dtype, 100 * limit)
    _check_separation(properties, pair, slow, fast, separation_db, dtype)
    return properties.report


def _check_linear(properties: Properties, pair: dict[str, Filter], clips: st.SearchStrategy, limit: float) -> None:
    for name, filter in pair.items():
        properties.at_most(
            f"linearity of the {name} filter",
            20 * limit,
            lambda x, factor, f=filter: _error(f(x + factor * x.flip(-1, -2)), f(x) + factor * f(x.flip(-1, -2))),
            "A filter may not normalise, clip or drop out values.",
            x=clips,
            factor=st.floats(-5, 5),
        )
        properties.at_most(
            f"no memory or batch in the {name} filter",
            limit,
            lambda x, f=filter: _beside_others(f, x),
            "The output for a clip may not depend on other clips, earlier calls or random numbers, and the input must "
            "stay as it is.",
            x=clips,
        )


def _check_constants(properties: Properties, low: Filter, high: Filter, limit: float) -> None:
    constants = st.builds(
        lambda size, value: torch.full(size, value, dtype=torch.float64 if limit < 1e-9 else torch.float32),
        grids(7, 9, 9),
        st.floats(-100, 100),
    )
    properties.at_most(
        "constants pass the low-pass filter",
        limit,
        lambda x: _error(low(x), x) / max(1.0, largest(x)),
        "The low-pass gain at frequency 0 is 1.",
        x=constants,
    )
    properties.at_most(
        "constants are removed by the high-pass filter",
        limit,
        lambda x: largest(high(x)) / max(1.0, largest(x)),
        "The high-pass gain at frequency 0 is 0.",
        x=constants,
    )


def _check_monotone(
    properties: Properties, with_cutoff: Callable[[float], tuple[Filter, Filter]], dtype: torch.dtype, limit: float
) -> None:
    def gained(size: tuple[int, int, int], cutoffs: list[float]) -> float:
        narrow, wide = (with_cutoff(cutoff) for cutoff in sorted(cutoffs))
        lost = _gain(narrow[0], size, dtype).real - _gain(wide[0], size, dtype).real
        added = _gain(wide[1], size, dtype).real - _gain(narrow[1], size, dtype).real
        return max(float(lost.max()), float(added.max()))

    properties.at_most(
        "monotone in the cut-off",
        limit,
        gained,
        "With a higher cut-off, the low-pass gain of every frequency stays or rises, and the high-pass gain stays or "
        "falls.",
        size=grids(7, 9, 9),
        cutoffs=st.lists(st.floats(0.02, 0.6), min_size=2, max_size=2),
    )


def _check_separation(
    properties: Properties, pair: dict[str, Filter], slow: float, fast: float, least: float, dtype: torch.dtype
) -> None:
    """Noise in two bands, and tones at either end: also along diagonals such as (+f, −f), which |f| treats alike."""
    radius = torch.stack(torch.meshgrid(*[torch.fft.fftfreq(n) for n in SIZE], indexing="ij")).square().sum(0).sqrt()

    def separation(f: Filter, passed: Tensor, stopped: Tensor) -> float:
        return decibels(float(f(passed).norm() / passed.norm()), float(f(stopped).norm() / stopped.norm()))

    def of_noise(seed: int, f: Filter, is_low: bool) -> float:
        spectrum = torch.fft.fftn(normal(seed, *SIZE, dtype=dtype))
        bands = [torch.fft.ifftn(spectrum * keep).real for keep in (radius <= slow + 1e-6, radius >= fast - 1e-6)]
        return separation(f, *(bands if is_low else bands[::-1]))

    def of_tones(signs: tuple[int, ...], steps: int, f: Filter, is_low: bool) -> float:
        axes = sum(map(abs, signs))
        below = max(0, math.floor(TONE * slow / axes**0.5) - steps)
        above = min(TONE // 2, math.ceil(TONE * fast / axes**0.5) + steps)
        tones = [_tone([bin * sign for sign in signs], dtype) for bin in (below, above)]
        return separation(f, *(tones if is_low else tones[::-1]))

    directions, steps = st.tuples(*[st.integers(-1, 1)] * 3).filter(any), st.integers(0, TONE // 2)
    remedy = (
        f"Put the cut-off between {slow:g} and {fast:g} cycles per cell and make the filter steeper, or set slow, fast "
        "and separation_db to what it is meant to separate."
    )
    for name, filter in pair.items():
        of = {"f": st.just(filter), "is_low": st.just(name == "low-pass")}
        tones = {"signs": directions, "steps": steps, **of}
        properties.at_least(f"separation of bands, {name}", least, of_noise, remedy, "dB", seed=SEEDS, **of)
        properties.at_least(f"separation of tones, {name}", least, of_tones, remedy, "dB", **tones)


def _tone(bins: list[int], dtype: torch.dtype) -> Tensor:
    """A wave of unit amplitude with these numbers of periods along the axes of a cube."""
    phases = [2 * torch.pi * bin / TONE * torch.arange(TONE, dtype=torch.float64) for bin in bins]
    return torch.cos(phases[0][:, None, None] + phases[1][:, None] + phases[2] + 0.3).to(dtype)


def _gain(f: Filter, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The complex gain of every frequency of ``fftn``: the spectrum of the impulse response."""
    impulse = torch.zeros(size, dtype=dtype)
    impulse[0, 0, 0] = 1
    return torch.fft.fftn(f(impulse), dim=AXES)


def _outside(gain: Tensor) -> float:
    below, above = -gain.real.min(), gain.real.max() - 1
    return max(0.0, float(below), float(above), largest(gain.imag))


def _energy_error(f: Filter, x: Tensor) -> float:
    gain = _gain(f, tuple(x.shape[-3:]), x.dtype)
    cells = x.shape[-3:].numel()
    spectral = (gain.abs().square() * torch.fft.fftn(x, dim=AXES).abs().square()).sum(AXES) / cells
    return largest(f(x).square().sum(AXES) - spectral) / cells


def _beside_others(f: Filter, x: Tensor) -> float:
    before, first = x.clone(), f(x)
    f(x.new_ones(3, 9, 2, 4))  # another size in between leaves no trace
    again = f(x)
    alone = torch.stack([f(clip) for clip in x.reshape(-1, *x.shape[-3:])]).reshape(x.shape)
    return max(_error(again, first), _error(alone, first), _error(x, before))


def _error(found: Tensor, wanted: Tensor) -> float:
    """The largest difference; infinite where the shape or dtype is another."""
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return float("inf")
    return largest(found - wanted)
