"""What `PMRoPE` and `PRoPE` share: the cameras of the forward that runs, and how positions are attached."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from memkit.backbones.attachment import Attachment
from memkit.backbones.base import Positioning
from memkit.cameras.path import CameraPath
from memkit.errors import InputError, MemkitError


class CameraPositions:
    """Cameras for the forward that runs, checked against it."""

    _path: CameraPath | None = None

    @contextmanager
    def at(self, path: CameraPath) -> Iterator[None]:
        """A `with` in which attached transformers run with these cameras, one for each latent frame of the input.

        A path of one sample serves any batch. ``backward`` under gradient checkpointing belongs inside.
        """
        before, self._path = self._path, path
        try:
            yield
        finally:
            self._path = before

    def running(self, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> CameraPath:
        """The cameras of this forward, on its device.

        Raises:
            MemkitError: there are none, or a block runs again with others than it first had. InputError: they are of
                another batch.
        """
        path = self._path
        if path is None:
            raise MemkitError(
                "A transformer with camera positions ran without cameras; call it in `with positions.at(path):`, and "
                "`backward` too, or detach them."
            )
        if not torch.compiler.is_compiling():  # the tables live as long as a forward, and are its own
            first = rotary[0].__dict__.setdefault("_memkit_cameras", path)
            if first is not path:
                raise MemkitError(
                    "A block ran again with other cameras than at first; call `backward` inside the forward's own "
                    "`with positions.at(path):`."
                )
        if path.c2w.shape[0] not in (1, hidden.shape[0]):
            raise InputError(
                f"The cameras are of {path.c2w.shape[0]} clips, the model runs a batch of {hidden.shape[0]}; give one "
                "path for all, or one a sample."
            )
        return path if path.c2w.device == hidden.device else path.to(hidden.device)

    def check_frames(self, rope: Any, args: tuple[Tensor, ...], _out: Any) -> None:
        """Hook of ``rope``, which a forward calls first with the latents.

        Raises:
            InputError: they have another number of frames than there are cameras.
        """
        frames = args[0].shape[2] // rope.patch_size[0]
        if self._path is not None and len(self._path) != frames:
            raise InputError(
                f"There are cameras of {len(self._path)} frames, the latents have {frames}; give a chunk its own rows: "
                "at(path.frames([...]))."
            )


class PositionAttachment(Attachment):
    """Camera positions on some transformers until ``detach`` or the end of the ``with``."""

    def __init__(
        self, cameras: CameraPositions, models: list[WanTransformer3DModel], make: Callable[[int], Positioning]
    ) -> None:
        super().__init__(models, lambda _model, layer: make(layer))
        self._hooks = [model.rope.register_forward_hook(cameras.check_frames) for model in models]

    def detach(self) -> None:
        """Take them away; injections attached to the same blocks stay."""
        while self._hooks:
            self._hooks.pop().remove()
        super().detach()
