"""How cameras reach the self-attention of a stock Wan: `PMRoPE` and `PRoPE` are two kinds of camera positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from diffusers import WanTransformer3DModel
from torch import Tensor

from memkit.backbones.attached import Attached, Running
from memkit.backbones.base import Carrier, Positioning
from memkit.cameras.path import CameraPath
from memkit.errors import InputError

KEY = "camera positions"


class AttachedCameras(Attached):
    """Camera positions on some transformers until ``detach`` or the end of the ``with``.

    Attached, a transformer runs inside `chunk` only.
    """

    kind = KEY

    def __init__(
        self, owner: object, models: Sequence[WanTransformer3DModel], positioning: Callable[[int], Positioning]
    ) -> None:
        self._positioning = positioning
        self.running: Running[CameraChunk] = Running(self.kind)
        super().__init__(owner, models)

    def chunk(self, path: CameraPath) -> CameraChunk:
        """A ``with`` in which attached transformers run with these cameras, one for each latent frame of the input.

        A path of one sample serves any batch. ``backward`` may come later.
        """
        return CameraChunk(self.running, path)

    def part(self, model: WanTransformer3DModel, layer: int) -> Positioning:
        return self._positioning(layer)

    def rotary(self, model: WanTransformer3DModel, latents: Tensor, carrier: Carrier) -> Carrier:
        """The cameras of this forward.

        Raises:
            InputError: the latents have another number of frames than there are cameras.
        """
        chunk = self.running.current()
        frames = latents.shape[2] // model.config.patch_size[0]
        if len(chunk.path) != frames:
            raise InputError(
                f"There are cameras of {len(chunk.path)} frames, the latents have {frames}; give a chunk its own rows: "
                "chunk(path.frames([...]))."
            )
        return carrier.with_state(self.key, chunk)


class CameraChunk:
    """The cameras of the calls inside it; made by `AttachedCameras.chunk`."""

    def __init__(self, running: Running[CameraChunk], path: CameraPath) -> None:
        self.path = path
        self._running = running

    def __enter__(self) -> CameraChunk:
        self._running.enter(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._running.leave()


def cameras_of(hidden: Tensor, carrier: Carrier) -> CameraPath:
    """The cameras of the forward that ``carrier`` travels with, on the device of ``hidden`` [B,S,D].

    Raises:
        InputError: they are of another batch.
    """
    path: CameraPath = carrier.state(KEY).path
    if path.c2w.shape[0] not in (1, hidden.shape[0]):
        raise InputError(
            f"The cameras are of {path.c2w.shape[0]} clips, the model runs a batch of {hidden.shape[0]}; give one "
            "path for all, or one per sample."
        )
    return path if path.c2w.device == hidden.device else path.to(hidden.device)
