"""`initialise_vae`: a start for `AutoencoderKLWan` from which a small one learns quickly.

At torch's default initialisation the causal convolutions see mostly zero padding and the signal shrinks at every layer:
after 600 steps on single frames the reconstruction was still the background without the body (20 dB). Here every
convolution starts as an isometry of the present frame, and the temporal ones start by copying frames, so that an
autoencoder of single frames is at once one of still videos.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn


@torch.no_grad()
def initialise_vae(vae: AutoencoderKLWan) -> None:
    """Initialise all convolutions of ``vae`` anew, in place; draws from torch's global generator."""
    for name, module in vae.named_modules():
        if not isinstance(module, nn.Conv2d | nn.Conv3d):
            continue
        if module.bias is not None:
            module.bias.zero_()
        if "time_conv" in name:
            _copy_frames(module.weight)
        else:
            gain = 0.3 if name.endswith("conv2") else 0.1 if ".proj" in name else 1.0
            _isometry(module.weight, gain)
    # The variance head is not trained (noise on the latents is a setting of the training): std e^-3 = 0.05 everywhere.
    vae.quant_conv.weight[vae.config.z_dim :] = 0.0
    assert vae.quant_conv.bias is not None
    vae.quant_conv.bias[vae.config.z_dim :] = -6.0


def _isometry(weight: Tensor, gain: float) -> None:
    """Orthogonal rows on the last temporal tap, little noise on the earlier ones."""
    taps = weight if weight.ndim == 5 else weight.unsqueeze(2)
    present = torch.empty(taps.shape[0], taps[:, :, -1].numel() // taps.shape[0])
    nn.init.orthogonal_(present, gain)
    noise = 0.02 * present.std() if taps.shape[2] > 1 else 0.0
    weight.normal_(0, 1).mul_(noise)
    taps[:, :, -1] += present.view_as(taps[:, :, -1])


def _copy_frames(weight: Tensor) -> None:
    """Halving time averages a pair of frames, doubling it repeats the frame; channels [out, in, taps, 1, 1]."""
    out_channels, in_channels = weight.shape[:2]
    identity = torch.eye(in_channels)
    weight.normal_(0, 0.02)
    if out_channels == 2 * in_channels:
        weight[:, :, -1, 0, 0] += torch.cat([identity, identity])
    else:
        weight[:, :, -2:, 0, 0] += 0.5 * identity[:, :, None]
