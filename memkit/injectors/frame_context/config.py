"""`FrameContextConfig`: the sizes of a `FrameContext`, and how context frames become tokens."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from memkit.backbones.unwrap import wan_of
from memkit.errors import InputError
from memkit.injectors.frame_context.packing import Packing, checked_packing


@dataclass(frozen=True)
class FrameContextConfig:
    """Sizes of the backbone (as they stand, of Wan2.1 T2V 1.3B; see `of`), and how context frames become tokens."""

    dim: int = 1536
    """Width."""
    blocks: int = 30
    channels: int = 16
    """Latent channels that the backbone takes in."""
    patch_size: tuple[int, int, int] = (1, 2, 2)
    """Latents (frames, rows, columns) in a token."""
    packing: Packing = ()
    """(latent frames, scale) from newest to oldest, FramePack's ((1, 1), (2, 2), (16, 4)) say; see `plan_frames`. Each
    scale has a convolution of its own. Empty: every frame, by the backbone's own patch embedding."""
    keep_start: bool = False
    """With ``packing``: the first context frame is kept aside in front, at scale 1, however long the context gets."""
    cameras: tuple[str, ...] = ("exact",)
    """Kinds of pose annotation, each with an encoder of its own: rendered ("exact"), estimated, …"""

    def __post_init__(self) -> None:
        checked_packing(self.packing)
        if self.patch_size[0] != 1:
            raise InputError(f"patch_size is {self.patch_size}; frame context is for models that patch single frames.")
        if self.keep_start and not self.packing:
            raise InputError("keep_start goes with a packing; without one every frame is kept as it is.")

    @classmethod
    def of(
        cls,
        transformer: nn.Module,
        packing: Packing = (),
        keep_start: bool = False,
        cameras: tuple[str, ...] = ("exact",),
    ) -> FrameContextConfig:
        """For a transformer: its sizes."""
        c = wan_of(transformer).config
        sizes = c.num_attention_heads * c.attention_head_dim, c.num_layers, c.in_channels
        return cls(*sizes, tuple(c.patch_size), packing, keep_start, cameras)

    @property
    def scales(self) -> tuple[int, ...]:
        """Those that have a convolution."""
        return tuple(sorted({scale for _, scale in self.packing} | ({1} if self.keep_start else set())))
