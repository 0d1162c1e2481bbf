"""Properties of the 3-D frequency filters."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memkit.encoders import HighPass, LowPass
from memkit.errors import InputError

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


def separation_db(module, passed, stopped):
    return 20 * torch.log10((module(passed).norm() / passed.norm()) / (module(stopped).norm() / stopped.norm()))


@few
@given(sizes, settings_)
def test_low_and_high_add_up_to_the_identity(size, config):
    x = noise(2, *size)
    close(LowPass(**config)(x) + HighPass(**config)(x), x)


def test_the_defaults_are_complementary():
    x = noise(3, 5, 8, 8, dtype=torch.float32)
    torch.testing.assert_close(LowPass()(x) + HighPass()(x), x, rtol=0, atol=1e-6)


@few
@given(kinds, sizes, settings_, st.integers(-3, -1))
def test_reversing_an_axis_reverses_the_output(kind, size, config, axis):
    module, x = kind(**config), noise(*size)
    close(module(x.flip(axis)), module(x).flip(axis))


@few
@given(kinds, sizes, settings_, st.tuples(*[st.integers(-4, 4)] * 3))
def test_rolling_the_input_rolls_the_output(kind, size, config, shift):
    module, x = kind(**config), noise(*size)
    close(module(x.roll(shift, (0, 1, 2))), module(x).roll(shift, (0, 1, 2)))


@few
@given(kinds, sizes, settings_, st.floats(-5, 5))
def test_linear(kind, size, config, factor):
    module, x, y = kind(**config), noise(*size), noise(*size, seed=1)
    close(module(x + factor * y), module(x) + factor * module(y))


@few
@given(sizes, settings_, st.floats(-100, 100))
def test_constants_pass_low_and_vanish_in_high(size, config, value):
    x = torch.full(size, value, dtype=torch.float64)
    torch.testing.assert_close(LowPass(**config)(x), x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(HighPass(**config)(x), torch.zeros_like(x), rtol=0, atol=1e-11)


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


@few
@given(sizes, settings_, st.floats(1, 3), st.floats(1, 3))
def test_a_higher_cutoff_never_passes_less(size, config, time_factor, space_factor):
    wider = dict(config, cutoff_time=config["cutoff_time"] * time_factor)
    wider["cutoff_space"] = config["cutoff_space"] * space_factor
    assert (LowPass(**wider).gain(*size) >= LowPass(**config).gain(*size)).all()
    assert (HighPass(**wider).gain(*size) <= HighPass(**config).gain(*size)).all()
    x = noise(*size)
    assert LowPass(**wider)(x).norm() >= LowPass(**config)(x).norm() - 1e-12


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


@pytest.mark.parametrize("config", [{}, {"shape": "gaussian"}, {"order": 2}], ids=str)
@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_tones_are_separated_by_twenty_decibels(config, axes):
    """Slow tones have bin ±1 of 24 (f = 0.042), fast ones are next to Nyquist; −1 is as slow as +1."""
    size = (24, 24, 24)
    for sign in (1, -1):
        slow = tone([sign * (axis in axes) for axis in range(3)], size)
        fast = tone([sign * 12 * (axis in axes) for axis in range(3)], size)
        assert separation_db(LowPass(**config), slow, fast) >= 20
        assert separation_db(HighPass(**config), fast, slow) >= 20


@pytest.mark.parametrize(("config", "slow_to"), [({}, 0.5), ({"shape": "gaussian"}, 1 / 3)], ids=str)
def test_bands_are_separated_by_twenty_decibels(config, slow_to):
    size, cutoff = (21, 30, 52), 0.25
    grid = torch.meshgrid(*[torch.fft.fftfreq(n, dtype=torch.float64) for n in size], indexing="ij")
    r = torch.stack(grid).square().sum(0).sqrt() / cutoff
    spectrum = torch.fft.fftn(noise(*size))
    slow = torch.fft.ifftn(spectrum * (r <= slow_to)).real
    fast = torch.fft.ifftn(spectrum * (r >= 2)).real
    assert separation_db(LowPass(cutoff, cutoff, **config), slow, fast) >= 20
    assert separation_db(HighPass(cutoff, cutoff, **config), fast, slow) >= 20


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


@pytest.mark.parametrize("kind", [LowPass, HighPass])
def test_leading_axes_are_a_batch(kind):
    x, module = noise(2, 3, 4, 5, 6, 7), kind()
    loop = torch.stack([torch.stack([torch.stack([module(c) for c in b]) for b in a]) for a in x])
    close(module(x), loop)
    assert module(torch.zeros(0, 4, 5, 6)).shape == (0, 4, 5, 6)


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


def test_signed_zeros_and_single_cells():
    assert (LowPass()(torch.full((2, 3, 3), -0.0)) == 0).all()
    x = noise(5, 1, 1, 1)
    close(LowPass()(x), x)
    assert (HighPass()(x) == 0).all()


def test_the_input_is_left_alone():
    x = noise(3, 4, 5, dtype=torch.float32)
    before = x.clone()
    LowPass()(x)
    assert torch.equal(x, before)


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
