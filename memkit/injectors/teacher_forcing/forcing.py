"""`TeacherForcing`: trains a stock Wan to continue from memory, with all chunks of a clip in one forward pass.

The model runs on the two streams [clean | noisy] of a `FrameGraph`: cᵢ is memory, xᵢ is generated. The graph defines
the visibility, positions and noise levels of the chunks; no mask is built, as each chunk is an attention call over the
chunks that are visible to it. So one forward pass computes for all chunks what streaming with a `KVCache` computes for
one after the other (ReMind, arXiv 2605.25333; the two streams as in Self-Forcing, arXiv 2506.08009, and CausVid).
"""

from __future__ import annotations

from memkit.backbones.base import TEACHER_FORCING
from memkit.backbones.unwrap import Attachable, transformers_of
from memkit.cameras.path import CameraPath
from memkit.display import described
from memkit.errors import InputError
from memkit.frame_graph.graph import FrameGraph
from memkit.frame_graph.layout import StreamLayout
from memkit.injectors.teacher_forcing.attachment import AttachedForcing


class TeacherForcing:
    """Runs attached transformers on the clean and noisy streams of a frame graph.

        forcing = TeacherForcing()
        with forcing.attach(transformer) as attached:
            for latents, text, graph in clips:
                with attached.chunk(graph) as step:
                    velocity = step.velocity(transformer, latents, noise, sigma, text)
                    step.loss(velocity, latents, noise).mean().backward()

    It composes with other attachments in any order: each chunk attends to memory tokens at its own timestep, as in
    streaming; camera positions need ``stream_cameras(graph, path)``. Do not use a recorder with memory tokens: its rows
    are per forward pass and would mix the chunks.

    Keys and values of the past are concatenated per chunk: n chunks of K bytes need up to (n² + n)·K bytes per layer,
    which are kept for ``backward`` unless gradient checkpointing is enabled. The modulation is per token, which stock
    Wan expands in each block: 24 bytes per token and channel of the model in fp32.
    """

    __repr__ = described

    def attach(self, *models: Attachable) -> AttachedForcing:
        """Attach to transformers, or to all experts of a pipeline or backbone, until ``detach()`` or the end of the
        ``with`` statement.

        Raises:
            InputError: no transformer is given, one is repeated, cannot have teacher forcing, patches latent frames
                together, or already has teacher forcing.
        """
        return AttachedForcing(self, transformers_of(models, TEACHER_FORCING))


def stream_cameras(graph: FrameGraph, path: CameraPath, for_loss: bool = False) -> CameraPath:
    """The cameras of both streams, for camera positions: ``with forced.chunk(graph), cameras.chunk(...)``.

    Args:
        graph: the frame graph, whose cameras are indices of latent frames of the clip.
        path: the camera path of the whole clip.
        for_loss: the same as for `AttachedForcing.chunk`.

    Raises:
        InputError: a frame of the graph has no camera, or its camera is beyond the path.
    """
    layout = StreamLayout.of(graph, for_loss)
    cameras, positions, rows = graph.cameras(), graph.positions(), []
    for frame in layout.frames("c") + layout.frames("x"):
        if (camera := cameras[frame]) is None:
            raise InputError(
                f"The frame at {positions[frame]} has no camera; give one to its chunk, or detach the camera positions."
            )
        rows.append(camera)
    return path.frames(rows)
