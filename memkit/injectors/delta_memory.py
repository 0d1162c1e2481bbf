"""`DeltaMemory`: state-space memory whose state is a matrix per head, which is corrected rather than faded.

The state is SANA-WM's, one gated delta rule per frame. With the keys K̂ = relu(K) / √(d·S) of the S tokens of a frame,
K brought to a root mean square of 1 per token, their values V, β = sigmoid(W_β n + 5) per token and one gate per head
and frame, g = exp(−exp(A)·softplus(mean W_g n − 5)):

    M_t = g·(M_{t−1} − K̂ᵀβ K̂ M_{t−1}) + K̂ᵀβ V        x_t ← x_t + W_out(swish(W_s n · RMSNorm(relu(Q_t) M)))

so that what a key has said before is replaced. The output is VideoSSM's (arXiv 2512.04519), and so is that frames enter
the state only when they leave a ``window``. A W_out after whole blocks that begins at 0, the norm of K and relu(Q) are
our reading; VideoSSM's weight of the output, which needs the length of the video, is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, rms_norm, silu, softplus

from memkit.backbones.adapters.choice import adapter_of
from memkit.backbones.base import RECURRENT
from memkit.backbones.unwrap import Attachable, transformer_of, transformers_of
from memkit.checks import LAYERS, MOST_FRAMES, WIDTHS, check_fields
from memkit.errors import InputError
from memkit.injectors.recurrent.attachment import AttachedStates
from memkit.injectors.recurrent.state import RecurrentState
from memkit.pretrained import Pretrained


@dataclass(frozen=True)
class DeltaMemoryConfig:
    """Sizes of the backbone, by default those of Wan2.1 T2V 1.3B, and which blocks have memory."""

    dim: int = 1536
    heads: int = 12
    blocks: int = 30
    every: int = 4  # blocks 0, every, 2·every, … have memory
    window: int = 0  # a frame reads what is at least so many frames before it; 0 includes itself

    def __post_init__(self) -> None:
        check_fields(self, dim=WIDTHS, heads=LAYERS, blocks=LAYERS, every=LAYERS, window=(0, MOST_FRAMES))
        if self.dim % self.heads:
            raise InputError(f"A width of {self.dim} is not divided by {self.heads} heads; give another number.")

    @classmethod
    def of(cls, transformer: nn.Module, every: int = 4, window: int = 0) -> DeltaMemoryConfig:
        """The config with the sizes of a transformer."""
        sizes = adapter_of(model := transformer_of(transformer)).sizes(model)
        return cls(sizes.width, sizes.heads, sizes.layers, every, window)


class DeltaLayer(nn.Module):
    """The recurrence of one block; its state [B, 1, N] holds M [H, d, d], and the normed frames that wait."""

    def __init__(self, config: DeltaMemoryConfig) -> None:
        super().__init__()
        self.heads, self.window, width = config.heads, config.window, config.dim
        self.norm = nn.LayerNorm(width)
        self.to_qkv, self.to_swish, self.out_proj = (nn.Linear(width, n * width) for n in (3, 1, 1))
        self.to_beta, self.to_gate = (nn.Linear(width, self.heads) for _ in range(2))
        self.log_rate = nn.Parameter(torch.zeros(self.heads))
        starts = {self.out_proj.weight: 0.0, self.out_proj.bias: 0.0, self.to_beta.bias: 5.0, self.to_gate.bias: -5.0}
        for parameter, value in starts.items():
            nn.init.constant_(parameter, value)

    def fits(self, state: Tensor, tokens: int, width: int) -> bool:  # whether it can be of frames of so many tokens
        return state.shape[1] == 1 and (state.shape[2] - width * width // self.heads) % (tokens * width) == 0

    def forward(self, x: Tensor, before: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What is added to x [B,F,S,D], and the state after its last frame in fp32, from that ``before``."""
        n, size = self.norm(x.to(self.to_qkv.weight.dtype)), x.shape[3] // self.heads
        state = n.new_zeros(len(n), self.heads, size, size, dtype=torch.float32)
        if before is not None:
            held, waiting = before[:, 0].split([state[0].numel(), before.shape[2] - state[0].numel()], 1)
            state, waiting = held.reshape_as(state), waiting.reshape(len(n), -1, *n.shape[2:])
            n = torch.cat([waiting.to(n.dtype), n], 1)
        q, k, v = self._heads(n)
        beta = self.to_beta(n).float().sigmoid().permute(0, 1, 3, 2)[..., None]
        gate = (-self.log_rate.float().exp() * softplus(self.to_gate(n).float().mean(2))).exp()[..., None, None]
        done, reads = 0, []
        with torch.autocast(x.device.type, enabled=False):
            for frame in range(x.shape[1]):
                while done <= n.shape[1] - x.shape[1] + frame - self.window:
                    g, key = gate[:, done], k[:, done]
                    state, done = g * state + key.mT @ (beta[:, done] * (v[:, done] - g * (key @ state))), done + 1
                reads.append(rms_norm(q[:, frame - x.shape[1]] @ state, (size,), eps=1e-6))
        read = torch.stack(reads, 1).transpose(2, 3).flatten(3).to(n.dtype)
        y = self.out_proj(silu(self.to_swish(n[:, -x.shape[1] :]) * read))
        return y, torch.cat([state.flatten(1), n[:, done:].float().flatten(1)], 1)[:, None]

    def _heads(self, n: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # queries, keys and values [B,F,H,S,d] in fp32
        q, k, v = (y.unflatten(3, (self.heads, -1)).transpose(2, 3).float() for y in self.to_qkv(n).chunk(3, -1))
        return relu(q), relu(rms_norm(k, k.shape[-1:])) / (k.shape[-1] * k.shape[-2]) ** 0.5, v


class DeltaMemory(Pretrained, nn.Module):
    """Recurrent memory of constant size, whatever the size of a frame; used as `StateSpaceMemory` is."""

    config_class = DeltaMemoryConfig

    def __init__(self, config: DeltaMemoryConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleDict({str(i): DeltaLayer(config) for i in range(0, config.blocks, config.every)})

    def state_bytes(self, height: int, width: int, batch: int = 1) -> int:
        """Bytes of the state of one branch and transformer, when its window is full; sides in tokens."""
        dim, heads, window = self.config.dim, self.config.heads, self.config.window
        return 4 * len(self.layers) * batch * (dim**2 // heads + window * height * width * dim)

    def attach(self, *models: Attachable, state: RecurrentState | None = None) -> AttachedStates:
        """See `StateSpaceMemory.attach`."""
        transformers = transformers_of(models, RECURRENT)
        for own in map(DeltaMemoryConfig.of, transformers):
            if (own.dim, own.heads, own.blocks) != (self.config.dim, self.config.heads, self.config.blocks):
                raise InputError(f"The transformer takes {own}, not {self.config}; create one of its sizes.")
        layers = {int(number): layer for number, layer in self.layers.items()}
        return AttachedStates(self, transformers, layers, RecurrentState() if state is None else state)
