"""An encoder as users write one: sound, small, and named by the path tests.helpers.own_encoder:Small."""

from dataclasses import dataclass

from torch import nn

from memkit.encoders import MemoryEncoder, check_clips, encode_clips


@dataclass(frozen=True)
class SmallConfig:
    latent_channels: int = 3
    dim: int = 8


class Small(MemoryEncoder):
    """One token per clip, of its mean."""

    config_class = SmallConfig

    def __init__(self, config=SmallConfig()):  # noqa: B008 (frozen)
        super().__init__()
        self.config = config
        self.out = nn.Linear(config.latent_channels, config.dim)

    def forward(self, latents, mask=None):
        check_clips(latents, mask, self.config.latent_channels)
        return self.with_gate(encode_clips(self.encode, self.out.weight.dtype, mask, latents))

    def encode(self, clips):
        return self.out(clips.mean((-3, -2, -1)))[:, None]
