"""`StateSpaceMemory`: a gated linear recurrence over time beside a stock model, per place of a frame.

The equations are those of Echo-Memory's block state-space memory (``block_wise_ssm_causal_v2``; arXiv 2606.09803). With
n = LayerNorm(x), [u, g] = W_in n and a decay a per channel, of each token's place in the frame:

    h_t = a·h_{t−1} + (1 − a)·tanh(u_t)        x_t ← x_t + scale·W_out(h_t·sigmoid(g_t))

There, h begins at 0 in every forward pass. Here it is carried from chunk to chunk, W_out begins at 0 and the scale is
1, so that an untrained memory changes nothing, and it follows whole blocks (our reading of what streaming needs).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from memkit.backbones.adapters.choice import adapter_of
from memkit.backbones.base import RECURRENT
from memkit.backbones.unwrap import Attachable, transformer_of, transformers_of
from memkit.checks import LAYERS, WIDTHS, check_fields
from memkit.errors import InputError
from memkit.injectors.recurrent.attachment import AttachedStates
from memkit.injectors.recurrent.state import RecurrentState
from memkit.pretrained import Pretrained


@dataclass(frozen=True)
class StateSpaceConfig:
    """Sizes of the backbone, by default those of Wan2.1 T2V 1.3B, and which blocks have memory."""

    dim: int = 1536  # width of the backbone's hidden states
    blocks: int = 30
    every: int = 4
    """Blocks 0, ``every``, 2·``every``, … have memory."""
    eps: float = 1e-5  # of the layer norm: that of torch, which is our reading

    def __post_init__(self) -> None:
        check_fields(self, dim=WIDTHS, blocks=LAYERS, every=LAYERS, eps=(0, 0.01))

    @classmethod
    def of(cls, transformer: nn.Module, every: int = 4) -> StateSpaceConfig:
        """The config with the sizes of a transformer."""
        sizes = adapter_of(model := transformer_of(transformer)).sizes(model)
        return cls(sizes.width, sizes.layers, every)


def scan(u: Tensor, decay_logit: Tensor, before: Tensor | None = None) -> Tensor:
    """h_t = a·h_{t−1} + (1 − a)·u_t of u [B,F,S,D]; a = sigmoid(decay_logit [D]), h_{−1} = before [B,S,D], or 0."""
    with torch.autocast(u.device.type, enabled=False):
        t, log_a = torch.arange(u.shape[1], device=u.device), logsigmoid(decay_logit)
        gap = (t[:, None] - t)[..., None]
        powers = (gap.clamp(min=0) * log_a).exp() * (gap >= 0)  # masked first: a to a negative power overflows
        h = torch.einsum("tsd,bsnd->btnd", powers * torch.sigmoid(-decay_logit), u)
        return h if before is None else h + ((t + 1)[:, None, None] * log_a).exp() * before[:, None]


class StateSpaceLayer(nn.Module):
    """The recurrence of one block. ``scaled`` is causal_v2's: W_out as torch draws it, scale 0.1 + 0.1·sigmoid(ρ)."""

    def __init__(self, dim: int, eps: float = 1e-5, scaled: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps)
        self.in_proj, self.out_proj = nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.decay_logit = nn.Parameter(torch.zeros(dim))
        self.residual_logit = nn.Parameter(torch.zeros(1)) if scaled else None
        if not scaled:
            for parameter in self.out_proj.parameters():
                nn.init.zeros_(parameter)

    def fits(self, state: Tensor, tokens: int, width: int) -> bool:  # whether it is of frames of so many tokens
        return tuple(state.shape[1:]) == (tokens, width)

    def forward(self, x: Tensor, before: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What is added to x [B,F,S,D], and the state [B,S,D] after its last frame in fp32, from that ``before``."""
        u, g = self.in_proj(self.norm(x.to(self.in_proj.weight.dtype))).chunk(2, dim=-1)
        h = scan(u.float().tanh(), self.decay_logit.float(), before)
        y = self.out_proj(h.to(g.dtype) * g.sigmoid())
        return y if self.residual_logit is None else (0.1 + 0.1 * self.residual_logit.sigmoid()) * y, h[:, -1]


class StateSpaceMemory(Pretrained, nn.Module):
    """Recurrent memory of constant size, which a model is trained with; see `AttachedStates.chunk`.

        with memory.attach(transformer) as attached:
            with attached.chunk():
                latents = ...  # denoise a chunk: every pass begins at the state before it
            with attached.chunk(write=True):  # once more, with the clean latents
                transformer(latents, zero, text)

    It may be attached with anything else that adds no frames to the model's sequence.
    """

    config_class = StateSpaceConfig

    def __init__(self, config: StateSpaceConfig) -> None:
        super().__init__()
        self.config = config
        numbers = range(0, config.blocks, config.every)
        self.layers = nn.ModuleDict({str(i): StateSpaceLayer(config.dim, config.eps) for i in numbers})

    def state_bytes(self, height: int, width: int, batch: int = 1) -> int:
        """Bytes of the state of one branch and transformer; sides in tokens: 43 MB for 1.3B at 640×352 (22×40)."""
        return 4 * len(self.layers) * batch * height * width * self.config.dim

    def attach(self, *models: Attachable, state: RecurrentState | None = None) -> AttachedStates:
        """Attach to transformers, or to all experts of a pipeline or backbone, until ``detach()`` or the end of the
        ``with`` statement. A video continues from ``state``, by default from none.

        Raises `InputError` where there is no transformer, one is repeated, has other sizes or already has recurrent
        memory, or the state is attached already.
        """
        transformers = transformers_of(models, RECURRENT)
        for own in map(StateSpaceConfig.of, transformers):
            if (own.dim, own.blocks) != (self.config.dim, self.config.blocks):
                raise InputError(f"The transformer takes {own}, not {self.config}; create one of its sizes.")
        layers = {int(number): layer for number, layer in self.layers.items()}
        return AttachedStates(self, transformers, layers, RecurrentState() if state is None else state)
