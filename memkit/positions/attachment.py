"""How camera positions (`PMRoPE` and `PRoPE`) are attached to the self-attention of a stock transformer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from memkit.backbones.attached import Attached
from memkit.backbones.base import CAMERA_POSITIONS, Carrier, Positioning
from memkit.backbones.protocol import Grid, Model
from memkit.backbones.running import Running
from memkit.backbones.samples import several_videos
from memkit.cameras.path import CameraPath
from memkit.checks import shown
from memkit.errors import InputError

KEY = CAMERA_POSITIONS


class AttachedCameras(Attached):
    """Camera positions attached to transformers until ``detach()`` or the end of the ``with`` statement.

    While attached, a transformer runs only inside `chunk`.
    """

    kind = KEY
    needs_frames = True

    def __init__(self, owner: object, models: Sequence[Model], positioning: Callable[[int], Positioning]) -> None:
        self._positioning = positioning
        self.running: Running[CameraChunk] = Running(self.kind, self.begin_chunk)
        super().__init__(owner, models)

    def chunk(self, path: CameraPath) -> CameraChunk:
        """A context manager in which the attached transformers run with these cameras, one per latent frame.

        A path of one sample is used for any batch size. ``backward`` may be called after the ``with`` statement.

        Raises:
            InputError: this is no path, such as `Cameras` that were not normalised yet.
        """
        if not isinstance(path, CameraPath):
            raise InputError(f"The path is {shown(path)}; give CameraPath.of(cameras).")
        return CameraChunk(self.running, path)

    def part(self, model: Model, layer: int) -> Positioning:
        return self._positioning(layer)

    def rotary(self, model: Model, grid: Grid | None, carrier: Carrier) -> Carrier:
        """Add the cameras of this forward pass as state.

        Raises:
            InputError: the number of latent frames differs from the number of cameras.
        """
        chunk = self.running.current()
        assert grid is not None
        if len(chunk.path) != grid.frames:
            raise InputError(
                f"There are cameras of {len(chunk.path)} frames, the latents have {grid.frames}; select the cameras of "
                "the chunk: chunk(path.frames([...]))."
            )
        return carrier.with_state(self.key, chunk)


class CameraChunk:
    """The cameras of the calls inside it; created by `AttachedCameras.chunk`."""

    def __init__(self, running: Running[CameraChunk], path: CameraPath) -> None:
        self.path = path
        self._running = running

    def __enter__(self) -> CameraChunk:
        self._running.enter(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._running.leave()


def cameras_of(hidden: Tensor, carrier: Carrier) -> CameraPath:
    """The cameras of the forward pass of ``carrier``, on the device of ``hidden`` [B,S,D].

    Raises:
        InputError: they are of another batch size.
    """
    path: CameraPath = carrier.state(KEY).path
    if path.c2w.shape[0] not in (1, hidden.shape[0]):
        raise InputError(
            f"The cameras are of {path.c2w.shape[0]} clips, the model runs a batch of {hidden.shape[0]}; give one "
            "path for all samples, or one per sample."
            + several_videos(path.c2w.shape[0], hidden.shape[0], "repeat each path {n} times in a row")
        )
    return path if path.c2w.device == hidden.device else path.to(hidden.device)
