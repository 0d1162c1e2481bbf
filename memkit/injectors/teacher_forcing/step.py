"""`ForcedStep`: one frame graph while it is run, what the transformer is given and what the loss is of."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from memkit.backbones.attached import Running
from memkit.errors import InputError
from memkit.flow import NUM_TRAIN_TIMESTEPS
from memkit.frame_graph.graph import FrameGraph
from memkit.frame_graph.layout import StreamLayout

Levels = float | Float[Tensor, " rows"] | Float[Tensor, "rows chunks"]
"""σ in [0, 1]: one for all, one per sample, or one per sample and chunk; a single row serves any batch."""


class ForcedStep:
    """One graph while it is run; made by `AttachedForcing.chunk`."""

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


def _mixed(latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """x_t; where σ is 0, the latents as they are."""
    sigma = sigma[:, None, :, None, None].to(latents)
    return torch.where(sigma == 0, latents, (1 - sigma) * latents + sigma * noise)
