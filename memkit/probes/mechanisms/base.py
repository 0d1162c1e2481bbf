"""`Mechanism`: one way in which a model sees the past of a probe."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from typing import Any, ClassVar

from diffusers import WanTransformer3DModel
from jaxtyping import Float
from torch import Tensor, nn

from memkit.errors import InputError
from memkit.flow import NUM_TRAIN_TIMESTEPS, add_noise
from memkit.generation.conditioning import conditioning_frames
from memkit.injectors.camera_encoder import CameraEncoder
from memkit.injectors.frame_context.config import FrameContextConfig
from memkit.injectors.frame_context.context import FrameContext
from memkit.probes.batch import ProbeBatch
from memkit.probes.probe import Probe


class Mechanism(nn.Module, ABC):
    """One way in which a transformer sees the past of a probe: a module whose parameters are trained for it.

    A subclass writes `shown`, and is created from the transformer and the probe, whose sizes it may need. Encoders of
    cameras (`CameraEncoder`) anywhere in it begin with the weights that they have in the pretrained base.
    """

    frozen: ClassVar[bool] = False
    """Whether the transformer stays as it is, so that only this module is trained."""
    parts: ClassVar[tuple[str, ...]] = ()
    """Names of the parts of what it shows that can be those of another sample, see `shown_with`."""

    def __init__(self, transformer: WanTransformer3DModel, probe: Probe[Any]) -> None:
        super().__init__()
        self.frames = FrameContext(FrameContextConfig.of(transformer))

    @abstractmethod
    def shown(self, transformer: WanTransformer3DModel, batch: ProbeBatch) -> AbstractContextManager[Any]:
        """Inside, the transformer generates the chunk with its cameras and sees the past as this mechanism shows it.

        The past may be empty, in the control without it. What is to be found is not in the batch, see
        `ProbeBatch.concealed`.
        """

    def shown_with(
        self, transformer: WanTransformer3DModel, batch: ProbeBatch, other: ProbeBatch, part: str
    ) -> AbstractContextManager[Any]:
        """The same as `shown`, with one of its ``parts`` from the past of ``other``: a control."""
        raise NotImplementedError(f"{type(self).__name__} has no part {part!r}.")

    def loss(
        self,
        transformer: WanTransformer3DModel,
        batch: ProbeBatch,
        noise: Float[Tensor, "batch channels frames height width"],
        sigma: Float[Tensor, " batch"],
    ) -> Float[Tensor, ""]:
        """Loss of a training step: that of flow matching, on the frames of the chunk that are not given."""
        shown = self.shown(transformer, batch.concealed())
        velocity = self.velocity(transformer, batch, add_noise(batch.target, noise, sigma), sigma, shown)
        return (velocity - (noise - batch.target))[:, :, batch.given :].pow(2).mean()

    def velocity(
        self,
        transformer: WanTransformer3DModel,
        batch: ProbeBatch,
        noisy: Float[Tensor, "batch channels frames height width"],
        sigma: Float[Tensor, " batch"],
        shown: AbstractContextManager[Any],
    ) -> Float[Tensor, "batch channels frames height width"]:
        """What the transformer predicts for a noisy chunk inside ``shown``, with the given frames of the chunk."""
        frames = batch.target[:, :, : batch.given]
        with shown, conditioning_frames(frames, transformer) if batch.given else nullcontext():
            return transformer(noisy, sigma * NUM_TRAIN_TIMESTEPS, batch.text, return_dict=False)[0]

    def held_bytes(self, batch: ProbeBatch) -> int:
        """Bytes that are held of the past of one sample when its chunk begins: by default all latents and cameras."""
        return frame_bytes(batch) * len(batch.memory_times)

    @contextmanager
    def in_sequence(self, transformer: WanTransformer3DModel, batch: ProbeBatch) -> Iterator[None]:
        """Inside, all frames of the batch's past are in the sequence of the chunk, with their cameras and times."""
        own, past = batch.poses()
        start, there = batch.times[0], len(batch.memory_times) > 0
        with (
            self.frames.attach(transformer) as attached,
            attached.chunk(
                batch.memory if there else None,
                positions=[time - start for time in batch.times],
                context_positions=[time - start for time in batch.memory_times],
                cameras=own,
                context_cameras=past if there else None,
            ),
        ):
            yield

    def own_cameras(self, transformer: WanTransformer3DModel, batch: ProbeBatch) -> AbstractContextManager[None]:
        """Inside, the chunk has its own cameras, and no past."""
        return self.in_sequence(transformer, batch.without_memory())

    def take_cameras(self, encoder: CameraEncoder) -> None:
        """Copy the weights of an encoder to all encoders of cameras for as many blocks."""
        for module in self.modules():
            if isinstance(module, CameraEncoder) and len(module.layers) == len(encoder.layers):
                module.load_state_dict(encoder.state_dict())


def frame_bytes(batch: ProbeBatch) -> int:
    """Bytes of one past frame of one sample: its latents, and its pose as 12 numbers."""
    latents = batch.target[0, :, 0]
    return latents.nbytes + 12 * latents.element_size()


def import_mechanism(path: str) -> type[Mechanism]:
    """The subclass of `Mechanism` that "package.module:Class" names; importing it runs the code of its module.

    Raises:
        InputError: there is no such module or class, or the class is no `Mechanism`.
    """
    module_name, _, class_name = path.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), class_name)):
        raise InputError(f"{path!r} is no path to a class; give one such as 'my_module:MyMethod'.")
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise InputError(
            f"The module {module_name!r} cannot be imported ({error}); install its package, or add the folder that "
            "contains it to PYTHONPATH."
        ) from error
    found = getattr(module, class_name, None)
    if not isinstance(found, type) or not issubclass(found, Mechanism):
        raise InputError(f"{path!r} is {found!r}; name a subclass of memkit.probes.Mechanism.")
    return found
