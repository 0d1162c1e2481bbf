"""Separation of the high-pass and the low-pass filter: those of the DiT-Mem release, and memkit's.

    python -m benchmarks.filters

White noise of the size of the release's features is filtered (the release adds a residual, memkit does not). The figure
is the energy above half of the Nyquist radius over the energy below it, in dB relative to the
input: a high-pass filter should raise it, a low-pass filter lower it. The interval is over seeds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from memkit.encoders import HighPass, LowPass
from memkit.encoders.dit_mem_layers import filter_curve

SIZE = (64, 6, 15, 26)
SEEDS = 20


def released(x: Tensor, high: bool) -> Tensor:
    """The release's filter without its noise, plus its residual."""
    weight = torch.view_as_complex(filter_curve(high, *SIZE).contiguous())
    spectrum = torch.fft.rfftn(x, dim=(-3, -2, -1), norm="ortho") * weight
    return torch.fft.irfftn(spectrum, s=SIZE[1:], dim=(-3, -2, -1), norm="ortho") + x


def high_over_low(x: Tensor) -> float:
    """Energy above half of the Nyquist radius over the energy below it, in dB."""
    energy = torch.fft.fftn(x, dim=(-3, -2, -1)).abs().square().sum(0)
    axes = (torch.fft.fftfreq(n).abs() for n in SIZE[1:])
    t, h, w = torch.meshgrid(*axes, indexing="ij")
    high = (t**2 + h**2 + w**2).sqrt() > 0.25
    return 10 * torch.log10(energy[high].sum() / energy[~high].sum()).item()


def main() -> None:
    """Print the table."""
    filters = {
        "release, high": lambda x: released(x, True),
        "release, low": lambda x: released(x, False),
        "memkit, HighPass()": HighPass(),
        "memkit, LowPass()": LowPass(),
    }
    print(f"{'filter':<22}{'high/low, dB':>14}   (mean ± 1.96 standard errors, {SEEDS} seeds)")
    for name, apply in filters.items():
        values = []
        for seed in range(SEEDS):
            x = torch.randn(SIZE, generator=torch.Generator().manual_seed(seed))
            values.append(high_over_low(apply(x)) - high_over_low(x))
        figure = torch.tensor(values)
        print(f"{name:<22}{figure.mean():>+14.2f}   ± {1.96 * figure.std() / SEEDS**0.5:.2f}")


if __name__ == "__main__":
    main()
