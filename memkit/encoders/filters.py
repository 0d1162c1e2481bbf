"""Low-pass and high-pass filters over time, height and width.

Frequencies are |fftfreq| in cycles per latent cell, 0 to 0.5, so +f and −f are always weighted alike. With separate
cut-offs for time and space, the normalised radius of a frequency is

    r² = (f_t / c_t)² + (f_h / c_s)² + (f_w / c_s)²

and the amplitude gain of the low-pass filter is

    gaussian       2^(−r²)
    butterworth    1 / (1 + r^(2·order))        (Gonzalez & Woods, Digital Image Processing, §4.8)
    ideal          1 where r ≤ 1, else 0

The gain is 1 at DC and, for the smooth shapes, 1/2 at r = 1 (−6 dB: half the amplitude, a quarter of the power). The
high-pass gain is 1 − the low-pass gain: with the same arguments, the two filters add up to the identity and have equal
gain at r = 1. With a half-power cut-off (1/√2 at r = 1), they would not be symmetric.

Butterworth filters separate tones with r ≤ 1/2 from those with r ≥ 2 by 24·(order/2) dB. A gaussian falls off more
gradually and separates r ≤ 1/3 from r ≥ 2 by 22 dB. The defaults are our choice: DiT-Mem (arXiv 2511.19229) does not
specify a cut-off, and its release orders frequency −1 as the highest of all.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memkit.checks import check_choice, check_floats, check_whole, is_number, shown
from memkit.errors import InputError

MOST_ORDER = 100
FILTER_SHAPES = ("gaussian", "butterworth", "ideal")


class FrequencyFilter(nn.Module):
    """Base class of both filters: a real, even gain on the 3-D spectrum, without parameters, buffers or state.

    Args:
        cutoff_time: cut-off in time, in cycles per latent cell, above 0; ``math.inf`` does not filter time.
        cutoff_space: cut-off in height and width, likewise.
        shape: one of ``FILTER_SHAPES``.
        order: steepness of the butterworth shape, from 1 to 100; ignored by the other shapes.

    Raises:
        InputError: a value is outside its range.
    """

    def __init__(
        self,
        cutoff_time: float = 0.25,
        cutoff_space: float = 0.25,
        shape: str = "butterworth",
        order: int = 4,
    ) -> None:
        super().__init__()
        check_filter(cutoff_time, cutoff_space, shape)
        check_whole("order", order, 1, 1000)
        self.cutoff_time, self.cutoff_space = float(cutoff_time), float(cutoff_space)
        self.shape = shape
        self.order = order

    def gain(
        self,
        time: int,
        height: int,
        width: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Float[Tensor, "{time} {height} {width}//2+1"]:
        """The amplitude gain, in [0, 1], of each frequency of ``torch.fft.rfftn`` over a clip of this size.

        Raises `InputError` for sizes below 1.
        """
        for name, size in (("time", time), ("height", height), ("width", width)):
            check_whole(name, size, 1)
        f_t = torch.fft.fftfreq(time, dtype=dtype, device=device)[:, None, None] / self.cutoff_time
        f_h = torch.fft.fftfreq(height, dtype=dtype, device=device)[:, None] / self.cutoff_space
        f_w = torch.fft.rfftfreq(width, dtype=dtype, device=device) / self.cutoff_space
        return self._gain(f_t.square() + f_h.square() + f_w.square())

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Filter ``x`` [..., T, H, W], of any size; the result has the same shape and dtype.

        Computed in float32 for 16-bit inputs, and in float64 for float64 inputs.

        Raises:
            InputError: ``x`` has fewer than three axes, an empty one among the last three, or no floating-point dtype.
        """
        if not isinstance(x, Tensor) or x.ndim < 3 or 0 in x.shape[-3:]:
            got = tuple(x.shape) if isinstance(x, Tensor) else shown(x)
            raise InputError(f"A filter needs [..., T, H, W] with sizes of 1 or more; got {got}.")
        check_floats("The input of a filter", x)
        if x.numel() == 0:
            return x.clone()
        work = x if x.dtype == torch.float64 else x.float()
        time, height, width = x.shape[-3:]
        gain = self.gain(time, height, width, work.dtype, work.device)
        spectrum = torch.fft.rfftn(work, dim=(-3, -2, -1))
        return torch.fft.irfftn(spectrum * gain, s=(time, height, width), dim=(-3, -2, -1)).to(x.dtype)

    def extra_repr(self) -> str:
        order = f", order={self.order}" if self.shape == "butterworth" else ""
        return f"cutoff_time={self.cutoff_time}, cutoff_space={self.cutoff_space}, shape={self.shape!r}{order}"

    def _gain(self, r2: Tensor) -> Tensor:
        raise NotImplementedError

    def _low(self, r2: Tensor) -> Tensor:
        if self.shape == "gaussian":
            return torch.exp(-math.log(2.0) * r2)
        if self.shape == "butterworth":
            return 1 / (1 + r2**self.order)
        return (r2 <= 1 + 1e-5).to(r2.dtype)  # the slack keeps a frequency on the cut-off inside despite rounding


def check_filter(cutoff_time: float, cutoff_space: float, shape: str) -> None:
    """Raises `InputError` unless the cut-offs are above 0 and the shape is known."""
    for name, value in (("cutoff_time", cutoff_time), ("cutoff_space", cutoff_space)):
        if not is_number(value) or not value > 0:  # also refuses NaN
            raise InputError(f"{name} is {shown(value)}; give a frequency above 0, at most 0.5 to have an effect.")
    check_choice("The filter shape", shape, FILTER_SHAPES)


class LowPass(FrequencyFilter):
    """Passes slow variations in time and space: the gain is 1 at DC and decreases with frequency."""

    def _gain(self, r2: Tensor) -> Tensor:
        return self._low(r2)


class HighPass(FrequencyFilter):
    """Passes fast variations: the gain is 1 − the low-pass gain, exactly 0 at DC, so constants are removed."""

    def _gain(self, r2: Tensor) -> Tensor:
        return 1 - self._low(r2)
