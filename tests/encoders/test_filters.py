"""The 3-D frequency filters: the suite that users run, and what memkit's own promise beyond it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memkit.encoders import HighPass, LowPass
from memkit.errors import InputError
from memkit.testing import check_filters

SMOOTH = ["gaussian", "butterworth"]
SHAPES = [*SMOOTH, "ideal"]
sizes = st.tuples(st.integers(1, 7), st.integers(1, 9), st.integers(1, 9))
settings_ = st.fixed_dictionaries(
    {
        "cutoff_time": st.floats(0.05, 0.6),
        "cutoff_space": st.floats(0.05, 0.6),
        "shape": st.sampled_from(SHAPES),
        "order": st.integers(1, 6),
    }
)
kinds = st.sampled_from([LowPass, HighPass])
few = settings(max_examples=40, deadline=None)


def noise(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def tone(bins, size, phase=0.3):
    angles = [2 * math.pi * b / n * torch.arange(n, dtype=torch.float64) for b, n in zip(bins, size, strict=True)]
    return torch.cos(angles[0][:, None, None] + angles[1][:, None] + angles[2] + phase)


SEPARATION = {  # the highest slow frequency, in cycles per cell, that is 20 dB below f = 0.5
    "default": ({}, 1 / 8),
    "gaussian": ({"shape": "gaussian"}, 1 / 12),
    "order 2": ({"order": 2}, 3**0.5 / 24),
}


@settings(max_examples=20)
@given(settings_, st.floats(0, 1), st.floats(0, 1))
def test_low_and_high_are_a_pair_of_filters_whatever_their_settings(config, time_power, space_power):
    """All properties of the suite; the cut-offs of time and space rise at different rates."""

    def with_cutoff(scale):
        changed = {"cutoff_time": config["cutoff_time"] * (10 * scale) ** time_power}
        changed["cutoff_space"] = config["cutoff_space"] * (10 * scale) ** space_power
        return LowPass(**config | changed), HighPass(**config | changed)

    pair = LowPass(**config), HighPass(**config)
    check_filters(*pair, with_cutoff=with_cutoff, slow=1 / 24, separation_db=0.0, examples=4)


@pytest.mark.parametrize("name", SEPARATION)
def test_bands_are_separated_by_twenty_decibels(name):
    config, slow = SEPARATION[name]
    report = check_filters(LowPass(**config), HighPass(**config), slow=slow, separation_db=20.0)
    assert len(report.properties) == 19


def test_the_defaults_are_complementary_in_float32():
    check_filters(LowPass(), HighPass(), dtype=torch.float32)


@few
@given(sizes, settings_, st.floats(1, 3), st.floats(1, 3))
def test_the_gain_of_a_higher_cutoff_is_never_less(size, config, time_factor, space_factor):
    """As numbers of `gain`, to the last bit."""
    wider = dict(config, cutoff_time=config["cutoff_time"] * time_factor)
    wider["cutoff_space"] = config["cutoff_space"] * space_factor
    assert (LowPass(**wider).gain(*size) >= LowPass(**config).gain(*size)).all()
    assert (HighPass(**wider).gain(*size) <= HighPass(**config).gain(*size)).all()


@few
@given(kinds, sizes, settings_)
def test_each_frequency_is_scaled_by_the_documented_gain(kind, size, config):
    """A dense reference: the full complex FFT times the formula of the module docstring; Parseval for the energy."""
    x = noise(*size)
    f_t, f_h, f_w = torch.meshgrid(*[torch.fft.fftfreq(n, dtype=torch.float64) for n in size], indexing="ij")
    r = ((f_t / config["cutoff_time"]) ** 2 + (f_h**2 + f_w**2) / config["cutoff_space"] ** 2).sqrt()
    if config["shape"] == "gaussian":
        low = 0.5 ** (r**2)
    elif config["shape"] == "butterworth":
        low = 1 / (1 + r ** (2 * config["order"]))
    else:
        low = (r <= 1 + 4e-6).double()
    gain = low if kind is LowPass else 1 - low
    out = kind(**config)(x)
    close(out, torch.fft.ifftn(torch.fft.fftn(x) * gain).real)
    energy = (gain**2 * torch.fft.fftn(x).abs() ** 2).sum() / x.numel()
    torch.testing.assert_close(out.square().sum(), energy, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [(5, 8, 8), (21, 60, 104), (6, 9, 7), (1, 1, 1), (2, 2, 2)])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_low_gain_falls_with_frequency_from_one_at_rest(size, shape):
    gain = LowPass(shape=shape).gain(*size, dtype=torch.float64)
    assert gain[0, 0, 0] == 1 and gain.min() >= 0
    for axis, n in ((0, size[0]), (1, size[1])):
        half = gain.narrow(axis, 0, n // 2 + 1)
        assert (half.diff(dim=axis) <= 0).all()
        mirrored = gain.flip(axis).roll(1, axis)
        assert torch.equal(mirrored, gain)
    assert (gain.diff(dim=2) <= 0).all()


def test_half_the_amplitude_at_the_cutoff():
    for shape in SMOOTH:
        for kind in (LowPass, HighPass):
            gain = kind(cutoff_time=0.125, cutoff_space=0.25, shape=shape).gain(8, 8, 8)
            for at in ((1, 0, 0), (-1, 0, 0), (0, 2, 0), (0, -2, 0), (0, 0, 2)):
                assert gain[at] == pytest.approx(0.5, abs=1e-6)
    assert LowPass(cutoff_time=0.2, cutoff_space=0.2, shape="ideal").gain(5, 5, 5)[1, 0, 0] == 1


def test_time_and_space_have_their_own_cutoffs():
    x, still = tone((4, 0, 0), (9, 8, 8)), tone((0, 3, 2), (9, 8, 8))
    only_time, only_space = LowPass(0.05, math.inf), LowPass(math.inf, 0.05)
    assert only_time(x).norm() < 1e-3 * x.norm() and only_space(still).norm() < 1e-3 * still.norm()
    close(only_time(still), still)
    close(only_space(x), x)


@pytest.mark.parametrize("kind", [LowPass, HighPass])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients(kind, shape):
    x = noise(2, 3, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(kind(shape=shape), (x,))
    single = noise(1, 1, 2).requires_grad_()
    assert torch.autograd.gradcheck(kind(shape=shape), (single,))


@pytest.mark.parametrize("kind", [LowPass, HighPass])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_and_shape_stay(kind, dtype):
    x = noise(2, 3, 5, 7, 6, dtype=dtype)
    out = kind()(x)
    assert out.dtype == dtype and out.shape == x.shape
    torch.testing.assert_close(out, kind()(x.double()).to(dtype), rtol=torch.finfo(dtype).eps * 4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_autocast_changes_nothing(dtype):
    x = noise(2, 5, 8, 8, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = HighPass()(x)
    assert inside.dtype == dtype and torch.equal(inside, HighPass()(x))


def test_layout_and_repetition_do_not_matter():
    x = noise(4, 5, 6, 7, dtype=torch.float32)
    module = LowPass()
    first = module(x)
    module(noise(3, 9, 2, 4))  # another size in between leaves no trace
    assert torch.equal(module(x), first)
    strided = x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    torch.testing.assert_close(module(strided), first, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(module(x[..., ::2]), module(x[..., ::2].contiguous()), rtol=1e-5, atol=1e-6)
    assert not list(module.parameters()) and not list(module.buffers())
    assert module(torch.zeros(0, 4, 5, 6)).shape == (0, 4, 5, 6)


def test_signed_zeros_and_single_cells():
    assert (LowPass()(torch.full((2, 3, 3), -0.0)) == 0).all()
    x = noise(5, 1, 1, 1)
    close(LowPass()(x), x)
    assert (HighPass()(x) == 0).all()


@pytest.mark.parametrize("bad", [{"cutoff_time": 0.0}, {"cutoff_space": -0.1}, {"cutoff_time": math.nan}, {"order": 0}])
def test_bad_numbers_are_named(bad):
    for kind in (LowPass, HighPass):
        with pytest.raises(InputError, match=next(iter(bad))):
            kind(**bad)


def test_bad_inputs_are_named():
    with pytest.raises(InputError, match="'box'.*gaussian, butterworth, ideal"):
        LowPass(shape="box")
    with pytest.raises(InputError, match=r"got \(4, 4\)"):
        LowPass()(torch.zeros(4, 4))
    with pytest.raises(InputError, match=r"\(2, 0, 4, 4\)"):
        LowPass()(torch.zeros(2, 0, 4, 4))
