"""`TeacherForcing`: a stock Wan learns to go on from memory, all chunks of a clip in one forward.

The model runs on the two streams [clean | noisy] of a `FrameGraph`: cᵢ is memory, xᵢ is made. Who sees whom, when each
chunk is and how noisy it is are the graph's; no mask is built, every chunk is an attention call over what it sees. So
one forward does for each chunk what streaming with a `KVCache` does one after the other (ReMind, arXiv 2605.25333; the
two streams are Self-Forcing's, arXiv 2506.08009, and CausVid's before it).
"""

from __future__ import annotations

from memkit.backbones.unwrap import Attachable, wans_of
from memkit.cameras.path import CameraPath
from memkit.errors import InputError
from memkit.frame_graph.graph import FrameGraph
from memkit.frame_graph.layout import StreamLayout
from memkit.injectors.teacher_forcing.attachment import AttachedForcing


class TeacherForcing:
    """Lets attached transformers run on the two streams of a graph.

        forcing = TeacherForcing()
        with forcing.attach(transformer) as attached:
            for latents, text, graph in clips:
                with attached.chunk(graph) as step:
                    velocity = step.velocity(transformer, latents, noise, sigma, text)
                    step.loss(velocity, latents, noise).mean().backward()

    It composes with what else is attached, in any order: memory tokens are seen by each chunk at the chunk's own
    timestep, as when it is streamed; camera positions take ``stream_cameras(graph, path)``. A recorder of memory has a
    row per forward and would mix the chunks up: leave it out.

    The keys of the past are joined for each chunk: n chunks of K bytes take up to (n² + n)·K in a layer, held for
    ``backward`` unless gradient checkpointing is on. Modulation is one a token, which stock Wan expands in each block:
    24 bytes a token and channel of the model in fp32.
    """

    def attach(self, *models: Attachable) -> AttachedForcing:
        """Attach to each transformer, or each expert of a pipeline or backbone, until ``detach()`` or the end of the
        ``with``; then it is what it was.

        Raises:
            InputError: no transformer, one twice, not a Wan, one that patches latent frames together, or one with
                teacher forcing attached.
        """
        return AttachedForcing(self, wans_of(models))


def stream_cameras(graph: FrameGraph, path: CameraPath, for_loss: bool = False) -> CameraPath:
    """The cameras of the two streams, for camera positions: ``with forced.chunk(graph), cameras.chunk(...)``.

    ``path`` is that of the whole clip, by whose latent frames the graph's cameras are numbered; ``for_loss`` is that of
    `AttachedForcing.chunk`.

    Raises `InputError` where a frame of the graph has no camera, or the path does not reach it.
    """
    layout = StreamLayout.of(graph, for_loss)
    cameras, positions, rows = graph.cameras(), graph.positions(), []
    for frame in layout.frames("c") + layout.frames("x"):
        if (camera := cameras[frame]) is None:
            raise InputError(
                f"The frame at {positions[frame]} has no camera; give its chunk one, or detach the positions."
            )
        rows.append(camera)
    return path.frames(rows)
