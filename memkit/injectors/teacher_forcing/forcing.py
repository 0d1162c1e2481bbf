"""`TeacherForcing`: a stock Wan learns to go on from memory, all chunks of a clip in one forward.

The model runs on the two streams [clean | noisy] of a `FrameGraph`: cᵢ is memory, xᵢ is made. Who sees whom, when each
chunk is and how noisy it is are the graph's; no mask is built, every chunk is an attention call over what it sees. So
one forward does for each chunk what streaming with a `KVCache` does one after the other (ReMind, arXiv 2605.25333; the
two streams are Self-Forcing's, arXiv 2506.08009, and CausVid's before it).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from memkit.backbones.attachment import wans_of
from memkit.cameras.path import CameraPath
from memkit.errors import InputError, MemkitError
from memkit.flow import NUM_TRAIN_TIMESTEPS
from memkit.frame_graph.graph import FrameGraph
from memkit.frame_graph.layout import StreamLayout
from memkit.injectors.teacher_forcing.attachment import ForcingAttachment

Levels = float | int | Float[Tensor, " rows"] | Float[Tensor, "rows chunks"]
"""σ in [0, 1]: one for all, one a sample, or one a sample and chunk; a single row serves any batch."""


class TeacherForcing:
    """Lets attached transformers run on the two streams of a graph.

        forcing = TeacherForcing()
        with forcing.attach(transformer):
            for latents, text, graph in clips:
                with forcing.at(graph) as step:
                    velocity = step.velocity(transformer, latents, noise, sigma, text)
                    step.loss(velocity, latents, noise).mean().backward()

    It composes with what else is attached, in any order: memory tokens are seen by each chunk at the chunk's own
    timestep, as when it is streamed; camera positions take ``stream_cameras(graph, path)``. A monitor of memory has a
    row a forward and would mix the chunks up: leave it out.

    The keys of the past are joined for each chunk: n chunks of K bytes take up to (n² + n)·K in a layer, held for
    ``backward`` unless gradient checkpointing is on. Modulation is one a token, which stock Wan expands in each block:
    24 bytes a token and channel of the model in fp32.
    """

    def __init__(self) -> None:
        self.running: ForcedStep | None = None

    def attach(self, *transformers: nn.Module) -> ForcingAttachment:
        """Attach to each transformer until ``detach()`` or the end of the ``with``; then it is what it was.

        Attached, a transformer runs in `at` only.

        Raises:
            InputError: no transformer, one twice, not a Wan, one that patches latent frames together, or one with
                teacher forcing attached.
        """
        return ForcingAttachment(self, wans_of(transformers))

    def at(self, graph: FrameGraph, for_loss: bool = False) -> ForcedStep:
        """A ``with`` in which attached transformers run on the streams of ``graph``, one for the whole batch.

        A call then takes latents [B,C,2F,H,W], the clean stream before the noisy one, timesteps [B,2F], one a frame,
        and text [B,L,D], or [B,chunks,L,D] for a prompt a chunk; it gives the velocity of the noisy stream
        [B,C,F,H,W]. `ForcedStep.velocity` makes that call. ``backward`` may come later, unless cameras are attached.

        ``for_loss`` runs only what the loss is made of: the noisy chunks that carry loss and the clean ones that they
        see. The loss and its gradients are the same, the cost is that of the tokens that are left. Raises
        `InputError` where no frame carries loss.
        """
        return ForcedStep(self, StreamLayout.of(graph, for_loss))


class ForcedStep:
    """One graph while it is run; made by `TeacherForcing.at`."""

    def __init__(self, forcing: TeacherForcing, layout: StreamLayout) -> None:
        self.graph, self.layout = layout.graph, layout
        self._forcing = forcing

    def __enter__(self) -> ForcedStep:
        if self._forcing.running is not None:
            raise MemkitError("Teacher forcing runs another graph already; graphs do not nest.")
        self._forcing.running = self
        return self

    def __exit__(self, *_: object) -> None:
        self._forcing.running = None

    def velocity(
        self,
        transformer: nn.Module,
        latents: Float[Tensor, "batch channels frames height width"],
        noise: Float[Tensor, "batch channels frames height width"],
        sigma: Levels,
        text: Float[Tensor, "batch words text_dim"] | Float[Tensor, "batch chunks words text_dim"],
        memory_noise: Float[Tensor, "batch channels frames height width"] | None = None,
    ) -> Float[Tensor, "batch channels frames height width"]:
        """The attached transformer's prediction of ε − x₀ for every frame of the noisy stream; 0 where it is not run.

        Args:
            transformer: the model, or what wraps it (DDP, accelerate).
            latents: what the frames of the graph show: ``clip[:, :, graph.sources()]``.
            noise: ε of the noisy stream. Given frames are shown without it.
            sigma: noise levels of the noisy stream.
            text: embeddings of one prompt a sample, or of one a chunk, which both of its streams read. Image
                embeddings (Wan2.1 I2V) cannot be given.
            memory_noise: ε of the clean stream, where the graph has noisy memory; ``noise`` without (our reading: no
                chunk sees itself in both streams, so nothing leaks).

        Raises:
            InputError: frames, levels or prompts that do not fit the graph.
        """
        inputs, timesteps = self.streams(latents, noise, sigma, memory_noise)
        made, frames = transformer(inputs, timesteps, text, return_dict=False)[0], self.layout.frames("x")
        if len(frames) == self.graph.num_frames:
            return made
        return made.new_zeros(latents.shape).index_copy(2, torch.tensor(frames, device=made.device), made)

    def streams(
        self,
        latents: Float[Tensor, "batch channels frames height width"],
        noise: Float[Tensor, "batch channels frames height width"],
        sigma: Levels,
        memory_noise: Float[Tensor, "batch channels frames height width"] | None = None,
    ) -> tuple[Float[Tensor, "batch channels both_frames height width"], Float[Tensor, "batch both_frames"]]:
        """What `velocity` gives the transformer: the frames of both streams that are run, and t = 1000·σ, fp32."""
        if latents.shape[2] != self.graph.num_frames:
            raise InputError(
                f"The graph has {self.graph.num_frames} frames, the latents {latents.shape[2]}; give what its frames "
                "show: latents[:, :, graph.sources()]."
            )
        clean, noisy = (x.to(latents.device) for x in noise_levels(self.graph, sigma, len(latents)))
        memory_noise = noise if memory_noise is None else memory_noise
        remembered, made = self.layout.frames("c"), self.layout.frames("x")
        both = [_mixed(latents, memory_noise, clean)[:, :, remembered], _mixed(latents, noise, noisy)[:, :, made]]
        return torch.cat(both, dim=2), NUM_TRAIN_TIMESTEPS * torch.cat([clean[:, remembered], noisy[:, made]], dim=1)

    def loss(
        self,
        velocity: Float[Tensor, "batch channels frames height width"],
        latents: Float[Tensor, "batch channels frames height width"],
        noise: Float[Tensor, "batch channels frames height width"],
    ) -> Float[Tensor, " batch"]:
        """Mean squared error of each sample against ε − x₀ over the frames that carry loss, in fp32."""
        mask: Bool[Tensor, " frames"] = self.graph.loss_mask().to(latents.device)
        error = velocity[:, :, mask].float() - (noise - latents)[:, :, mask].float()
        return error.pow(2).flatten(1).mean(1)


def noise_levels(
    graph: FrameGraph, sigma: Levels, batch: int
) -> tuple[Float[Tensor, "batch frames"], Float[Tensor, "batch frames"]]:
    """σ of each frame of the clean and of the noisy stream, fp32 on the CPU; see `FrameGraph.noise_levels`.

    Raises `InputError` for levels outside [0, 1], or of another number of samples or chunks.
    """
    rows = [float(sigma)] if isinstance(sigma, float | int) else sigma.tolist()
    if len(rows) not in (1, batch):
        raise InputError(f"There are noise levels of {len(rows)} samples for a batch of {batch}; give one or all.")
    levels = [graph.noise_levels(row) for row in rows]
    clean, noisy = (torch.stack(x).expand(batch, -1) for x in zip(*levels, strict=True))
    return clean, noisy


def stream_cameras(graph: FrameGraph, path: CameraPath, for_loss: bool = False) -> CameraPath:
    """The cameras of the two streams, for camera positions: ``with forcing.at(graph), pm_rope.at(...)``.

    ``path`` is that of the whole clip, by whose latent frames the graph's cameras are numbered; ``for_loss`` is that of
    `TeacherForcing.at`.

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


def _mixed(latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """x_t; where σ is 0, the latents as they are."""
    sigma = sigma[:, None, :, None, None].to(latents)
    return torch.where(sigma == 0, latents, (1 - sigma) * latents + sigma * noise)
