"""`FrameContextConfig`: sizes of a `FrameContext`, and how context frames are packed into tokens."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from memkit.backbones.adapters.choice import adapter_of
from memkit.backbones.unwrap import transformer_of
from memkit.checks import LAYERS, WIDTHS, check_fields
from memkit.errors import InputError
from memkit.injectors.camera_encoder import check_annotations
from memkit.injectors.frame_context.packing import MOST_PACKED, Packing, checked_packing


@dataclass(frozen=True)
class FrameContextConfig:
    """Sizes of the backbone (by default those of Wan2.1 T2V 1.3B; see `of`), and how context frames are packed."""

    dim: int = 1536
    """Width of the backbone's hidden states."""
    blocks: int = 30
    """Number of transformer blocks of the backbone."""
    channels: int = 16
    """Number of latent channels of the backbone's input."""
    patch_size: tuple[int, int, int] = (1, 2, 2)
    """Patch size of the backbone in latent (frames, rows, columns)."""
    packing: Packing = ()
    """(latent frames, scale) per level, from the newest frames to the oldest, such as FramePack's
    ((1, 1), (2, 2), (16, 4)); see `plan_frames`. Each scale has its own convolution. Empty: all frames at full
    resolution, by the backbone's own patch embedding."""
    keep_start: bool = False
    """Whether to always keep the first context frame, at scale 1, before the packed ones; only with ``packing``."""
    cameras: tuple[str, ...] = ("exact",)
    """Kinds of pose annotation, such as rendered ("exact") or estimated; each kind has its own encoder."""

    def __post_init__(self) -> None:
        check_annotations(self.cameras)
        check_fields(self, dim=WIDTHS, blocks=LAYERS, channels=WIDTHS, patch_size=(1, 1000), packing=(1, MOST_PACKED))
        checked_packing(self.packing)
        if self.patch_size[0] != 1:
            raise InputError(f"patch_size is {self.patch_size}; frame context is for models that patch single frames.")
        if self.keep_start and not self.packing:
            raise InputError("keep_start goes with a packing; without one, all frames are kept.")

    @classmethod
    def of(
        cls,
        transformer: nn.Module,
        packing: Packing = (),
        keep_start: bool = False,
        cameras: tuple[str, ...] = ("exact",),
    ) -> FrameContextConfig:
        """The config with the sizes of a transformer."""
        model = transformer_of(transformer)
        sizes = adapter_of(model).sizes(model)
        return cls(sizes.width, sizes.layers, sizes.channels, sizes.patch_size, packing, keep_start, cameras)

    @property
    def scales(self) -> tuple[int, ...]:
        """The scales that have a convolution, in ascending order."""
        return tuple(sorted({scale for _, scale in self.packing} | ({1} if self.keep_start else set())))
