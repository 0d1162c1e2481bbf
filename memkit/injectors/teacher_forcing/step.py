"""`ForcedStep`: a training step on one frame graph: the transformer's inputs, its prediction and the loss."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from memkit.backbones.running import Running
from memkit.checks import check_finite, check_floats, shown
from memkit.errors import InputError
from memkit.flow import NUM_TRAIN_TIMESTEPS
from memkit.frame_graph.graph import FrameGraph
from memkit.frame_graph.layout import StreamLayout

Levels = float | Float[Tensor, " rows"] | Float[Tensor, "rows chunks"]
"""σ in [0, 1]: one for all, one per sample, or one per sample and chunk; a single row is used for any batch size."""


class ForcedStep:
    """A training step on one frame graph; created by `AttachedForcing.chunk`."""

    def __init__(self, running: Running[ForcedStep], layout: StreamLayout) -> None:
        self.graph, self.layout = layout.graph, layout
        self._running = running

    def __enter__(self) -> ForcedStep:
        self._running.enter(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._running.leave()

    def velocity(
        self,
        transformer: nn.Module,
        latents: Float[Tensor, "batch channels frames height width"],
        noise: Float[Tensor, "batch channels frames height width"],
        sigma: Levels,
        text: Float[Tensor, "batch words text_dim"] | Float[Tensor, "batch chunks words text_dim"],
        memory_noise: Float[Tensor, "batch channels frames height width"] | None = None,
    ) -> Float[Tensor, "batch channels frames height width"]:
        """The transformer's prediction of ε − x₀ for all frames of the noisy stream; 0 for frames that are not run.

        Args:
            transformer: the attached model, possibly wrapped (DDP, accelerate).
            latents: clean latents of the frames of the graph: ``clip[:, :, graph.sources()]``.
            noise: ε of the noisy stream. Conditioning frames stay clean.
            sigma: noise levels of the noisy stream.
            text: text embeddings of one prompt per sample, or of one per chunk, used in both streams. Image embeddings
                (Wan2.1 I2V) are not supported.
            memory_noise: ε of the clean stream, for graphs with noisy memory; by default ``noise`` (our reading: no
                chunk attends to itself in both streams, so nothing leaks).

        Raises:
            InputError: frames, noise levels or prompts do not fit the graph, or latents or noise are not finite.
        """
        inputs, timesteps = self.streams(latents, noise, sigma, memory_noise)
        velocity, frames = transformer(inputs, timesteps, text, return_dict=False)[0], self.layout.frames("x")
        if len(frames) == self.graph.num_frames:
            return velocity
        index = torch.tensor(frames, device=velocity.device)
        return velocity.new_zeros(latents.shape).index_copy(2, index, velocity)

    def streams(
        self,
        latents: Float[Tensor, "batch channels frames height width"],
        noise: Float[Tensor, "batch channels frames height width"],
        sigma: Levels,
        memory_noise: Float[Tensor, "batch channels frames height width"] | None = None,
    ) -> tuple[Float[Tensor, "batch channels both_frames height width"], Float[Tensor, "batch both_frames"]]:
        """Inputs of the transformer in `velocity`: the frames of both streams that are run, and t = 1000·σ in fp32."""
        given = {"The latents": latents, "The noise": noise}
        given |= {} if memory_noise is None else {"The noise of memory": memory_noise}
        for name, x in given.items():
            check_finite(name, x, "[B, C, F, H, W]")
            if x.shape != latents.shape:
                raise InputError(f"{name} is {list(x.shape)}, the latents are {list(latents.shape)}; give one shape.")
        if latents.shape[2] != self.graph.num_frames:
            raise InputError(
                f"The graph has {self.graph.num_frames} frames, the latents {latents.shape[2]}; give the latents of "
                "its frames: latents[:, :, graph.sources()]."
            )
        clean, noisy = (x.to(latents.device) for x in noise_levels(self.graph, sigma, len(latents)))
        memory_noise = noise if memory_noise is None else memory_noise
        c, x = self.layout.frames("c"), self.layout.frames("x")
        streams = [_noisy(latents, memory_noise, clean)[:, :, c], _noisy(latents, noise, noisy)[:, :, x]]
        return torch.cat(streams, dim=2), NUM_TRAIN_TIMESTEPS * torch.cat([clean[:, c], noisy[:, x]], dim=1)

    def loss(
        self,
        velocity: Float[Tensor, "batch channels frames height width"],
        latents: Float[Tensor, "batch channels frames height width"],
        noise: Float[Tensor, "batch channels frames height width"],
    ) -> Float[Tensor, " batch"]:
        """Mean squared error against ε − x₀ per sample, over the frames that carry loss, in fp32."""
        mask: Bool[Tensor, " frames"] = self.graph.loss_mask().to(latents.device)
        error = velocity[:, :, mask].float() - (noise - latents)[:, :, mask].float()
        return error.pow(2).flatten(1).mean(1)


def noise_levels(
    graph: FrameGraph, sigma: Levels, batch: int
) -> tuple[Float[Tensor, "batch frames"], Float[Tensor, "batch frames"]]:
    """σ of each frame of the clean and the noisy stream, in fp32 on the CPU; see `FrameGraph.noise_levels`.

    Raises:
        InputError: levels are outside [0, 1], or of another number of samples or chunks.
    """
    if not isinstance(sigma, float | int) or isinstance(sigma, bool):
        check_floats("sigma", sigma)
        if isinstance(sigma, Tensor) and sigma.ndim not in (1, 2):
            raise InputError(f"sigma is {shown(sigma)}; give a number, one per sample [B], or per chunk [B, chunks].")
    rows = [float(sigma)] if isinstance(sigma, float | int) else sigma.tolist()
    if len(rows) not in (1, batch):
        raise InputError(f"There are noise levels of {len(rows)} samples for a batch of {batch}; give one or all.")
    levels = [graph.noise_levels(row) for row in rows]
    clean, noisy = (torch.stack(x).expand(batch, -1) for x in zip(*levels, strict=True))
    return clean, noisy


def _noisy(latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """x_t at σ per sample and frame; exactly the latents where σ is 0."""
    sigma = sigma[:, None, :, None, None].to(latents)
    return torch.where(sigma == 0, latents, (1 - sigma) * latents + sigma * noise)
