"""`EchoMemory`: camera actions and context frames for a stock Wan, as Echo-Memory has them (arXiv 2606.09803).

Before each block, attention over all frames at each place of a frame adds to the tokens: x ← x + A(x + W p), with the
pose p of each frame, by weights of its own, without positions and without a mask. Context frames are latents of single
frames, clean, at the timestep of the target; they stand beside the target frames in the sequence, and only the target
is returned. In the row ``block_wise_ssm_causal_v2``, a recurrence over context and target follows the self-attention
of every fourth block; it begins at 0 in every forward pass. Parameters have the names of the public checkpoints.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from memkit.backbones.adapters.choice import adapter_of
from memkit.backbones.unwrap import Attachable, transformers_of
from memkit.cameras.relative import POSE_VECTOR_SIZE
from memkit.errors import InputError
from memkit.injectors.echo_memory.attachment import KIND, AttachedEcho
from memkit.injectors.echo_memory.config import EchoConfig
from memkit.injectors.state_space import StateSpaceLayer
from memkit.pretrained import Pretrained


class ActionAttention(nn.Module):
    """Attention over the frames at each place; its output begins at 0."""

    def __init__(self, dim: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = nn.RMSNorm(dim, eps), nn.RMSNorm(dim, eps)
        zero_(self.o)

    def forward(self, x: Tensor) -> Tensor:
        """Of x [B,F,S,D] the same shape."""
        x = x.transpose(1, 2)
        q, k, v = (
            y.unflatten(-1, (self.heads, -1)).transpose(-2, -3)
            for y in (self.norm_q(self.q(x)), self.norm_k(self.k(x)), self.v(x))
        )
        return self.o(scaled_dot_product_attention(q, k, v).transpose(-2, -3).flatten(-2)).transpose(1, 2)


class ActionProjection(nn.Module):
    """Poses to vectors of the model's width; it begins at 0."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(POSE_VECTOR_SIZE, dim)
        zero_(self.proj)

    def forward(self, poses: Tensor) -> Tensor:
        return self.proj(poses.to(self.proj.weight.dtype))


class EchoBlock(nn.Module):
    """What is added to one block of the backbone."""

    def __init__(self, config: EchoConfig, number: int) -> None:
        super().__init__()
        self.action_mlp = ActionProjection(config.dim)
        self.self_attn_with_action = ActionAttention(config.dim, config.heads, config.qk_eps)
        has_state = number in config.with_state
        self.block_wise_ssm = StateSpaceLayer(config.dim, config.norm_eps, scaled=True) if has_state else None

    def act(self, x: Tensor, poses: Tensor) -> Tensor:
        """The action step of x [B,F,S,D] and the poses [B or 1,F,12] of its frames: what is added to x."""
        dtype = self.self_attn_with_action.q.weight.dtype
        return self.self_attn_with_action(x.to(dtype) + self.action_mlp(poses)[:, :, None].to(dtype))


class EchoMemory(Pretrained, nn.Module):
    """What Echo-Memory adds to a Wan. See `load_echo_memory` for its checkpoints.

        transformer, memory = load_echo_memory("context_k1/epoch-0.safetensors")
        with memory.attach(transformer) as attached, attached.chunk(poses, context, context_poses):
            velocity = transformer(latents, t, text).sample  # of the target frames

    Without context, a new one changes no bit of the output, except where it has a recurrence, which the authors did not
    begin at 0.
    """

    config_class = EchoConfig

    def __init__(self, config: EchoConfig) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(EchoBlock(config, number) for number in range(config.blocks))

    def attach(self, *models: Attachable) -> AttachedEcho:
        """Attach to Wan transformers, or to all experts of a pipeline or backbone, until ``detach()`` or the end of the
        ``with`` statement. While attached, a transformer runs only inside `AttachedEcho.chunk`.

        Raises `InputError` where there is no transformer, one is repeated, is no Wan, has other sizes, or has something
        attached already that places the frames.
        """
        transformers = transformers_of(models, KIND)
        for model in transformers:
            sizes, own = adapter_of(model).sizes(model), (self.config.dim, self.config.blocks, self.config.heads)
            if (sizes.width, sizes.layers, sizes.heads) != own:
                raise InputError(
                    f"The transformer has width, blocks and heads {(sizes.width, sizes.layers, sizes.heads)}, this "
                    f"memory is for {own}; create it with the sizes of the transformer."
                )
        return AttachedEcho(self, transformers, self.config, list(self.blocks))


def zero_(linear: Any) -> None:
    """Set a linear layer to 0."""
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
