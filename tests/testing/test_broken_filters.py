"""Filters with one fault each: the suite names the property that fails."""

import pytest
import torch

from memkit.encoders import HighPass, LowPass
from memkit.encoders.dit_mem_layers import filter_curve
from memkit.testing import CheckFailed, check_filters

AXES = (-3, -2, -1)
LOW, HIGH = LowPass(), HighPass()


def released(high):
    """The filter of DiT-Mem's release without its noise: bins are ordered by number, so that −1 is the highest."""

    def apply(x):
        curve = filter_curve(high, 1, *x.shape[-3:])[0, ..., 0].to(x.dtype)
        spectrum = torch.fft.rfftn(x, dim=AXES)
        return torch.fft.irfftn(spectrum * curve, s=x.shape[-3:], dim=AXES)

    return apply


def by_bin_number(low):
    """A low-pass filter and its complement whose gain depends on the sign of a frequency."""

    def apply(x):
        size = x.shape[-3:]
        ramp = sum(torch.meshgrid(*[torch.linspace(0, 1, n, dtype=x.dtype) for n in size], indexing="ij"))
        gain = (ramp < 1).to(x.dtype)
        return torch.fft.ifftn(torch.fft.fftn(x, dim=AXES) * (gain if low else 1 - gain), dim=AXES).real

    return apply


def windowed(x):
    """Fades at the borders, so that the position of content matters."""
    window = torch.hann_window(x.shape[-1] + 2, periodic=False, dtype=x.dtype)[1:-1]
    return LOW(x * (window + window.flip(0)))


def in_place(x):
    out = LOW(x)
    x += 1e-3
    return out


def shifted_mean(x):
    return LOW(x) + 0.1 * x.mean()  # over the batch, too


SCALED = (lambda x: 1.5 * LOW(x), lambda x: x - 1.5 * LOW(x))
BROKEN = {
    "bands do not add up": (LOW, HighPass(0.2, 0.2), "partition of unity"),
    "the release's filters": (released(False), released(True), "partition of unity"),
    "clips values": (lambda x: LOW(x).clamp(-0.5, 0.5), lambda x: x - LOW(x).clamp(-0.5, 0.5), "linearity of the low"),
    "noise": (lambda x: LOW(x) + 1e-3 * torch.randn_like(x), HIGH, "partition of unity"),
    "sees the batch": (shifted_mean, lambda x: x - shifted_mean(x), "no memory or batch in the low-pass"),
    "by bin number": (by_bin_number(True), by_bin_number(False), "symmetry of the low-pass"),
    "window": (windowed, lambda x: x - windowed(x), "the low-pass filter"),
    "changes its input": (in_place, HIGH, "no memory or batch in the low-pass|partition"),
    "gain above 1": (*SCALED, "gain of the low-pass filter outside"),
    "swapped": (HIGH, LOW, "constants pass the low-pass"),
    "another dtype": (lambda x: LOW(x).float(), lambda x: HIGH(x).float(), "partition of unity"),
    "hardly filters": (LowPass(order=1), HighPass(order=1), "separation of bands, low-pass"),
    "cuts off too low": (LowPass(0.1, 0.1), HighPass(0.1, 0.1), "separation of bands, high-pass"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_pair_is_named_by_its_property(name):
    low, high, says = BROKEN[name]
    with pytest.raises(CheckFailed, match=says) as caught:
        check_filters(low, high, shrink=False)
    assert isinstance(caught.value, AssertionError) and "(at " in str(caught.value)
    assert caught.value.failed is not None and not caught.value.failed.holds


def test_the_seed_determines_all_inputs():
    low, high, _ = BROKEN["clips values"]
    first, again = (pytest.raises(CheckFailed, check_filters, low, high) for _ in range(2))
    assert str(first.value) == str(again.value)


def test_a_cut_off_that_works_the_wrong_way_round_is_found():
    def wrong(cutoff):
        return LowPass(0.7 - cutoff, 0.7 - cutoff), HighPass(0.7 - cutoff, 0.7 - cutoff)

    with pytest.raises(CheckFailed, match="monotone in the cut-off"):
        check_filters(LOW, HIGH, with_cutoff=wrong, shrink=False)
    assert "monotone in the cut-off (give with_cutoff=)" in check_filters(LOW, HIGH).not_checked


def test_the_release_fails_by_its_order_of_frequencies_too():
    """Made complementary, its low-pass filter still treats frequencies −1 and 1 differently."""
    low = released(False)

    def half(x):
        return low(x) / 1.2

    with pytest.raises(CheckFailed, match="symmetry of the low-pass"):
        check_filters(half, lambda x: x - half(x))
