"""`ControlBranch`: latents of another kind guide a stock Wan, by blocks beside its own (VACE, arXiv 2503.07598).

The branch embeds the control latents, adds the model's own embedded tokens, and runs through blocks like the model's;
after each, a linear layer makes a hint, which is added to the output of one of the model's blocks. Mirage (arXiv
2606.09828) gives it what a camera sees of latents in space: `memkit.retrievers.LiftedLatents`.

In diffusers, `WanVACETransformer3DModel` is such a model as a whole, whose blocks take one timestep per sample. This
branch has the same parameters and gives the same result, to the bit, on a stock `WanTransformer3DModel`, also with one
timestep per token, as conditioning frames and frame context have.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from torch import Tensor, nn

from memkit.backbones.adapters.choice import adapter_of
from memkit.backbones.base import CONTROL_BRANCH
from memkit.backbones.unwrap import Attachable, transformer_of, transformers_of
from memkit.errors import InputError
from memkit.injectors.control_branch.attachment import AttachedControl
from memkit.injectors.control_branch.config import ControlBranchConfig
from memkit.pretrained import Pretrained


class ControlBlock(WanTransformerBlock):
    """A block of a Wan, with the parameters of diffusers' `WanVACETransformerBlock`; its projections begin at 0."""

    def __init__(self, config: ControlBranchConfig, first: bool) -> None:
        norm = "rms_norm_across_heads", config.cross_attn_norm, config.eps
        super().__init__(config.dim, config.ffn_dim, config.heads, *norm, config.image_width)
        self.proj_in = nn.Linear(config.dim, config.dim) if first else None
        self.proj_out = nn.Linear(config.dim, config.dim)
        for layer in (self.proj_in, self.proj_out):
            for parameter in () if layer is None else layer.parameters():
                nn.init.zeros_(parameter)

    def forward(  # type: ignore[override]
        self, control: Tensor, hidden: Tensor, text: Tensor, temb: Tensor, rotary: Any
    ) -> tuple[Tensor, Tensor]:
        """The hint, and the control tokens [B,S,D] after the block; the first block adds the model's ``hidden``."""
        if self.proj_in is not None:
            control = self.proj_in(control) + hidden
        control = super().forward(control, text, temb, rotary)
        return self.proj_out(control), control


class ControlBranch(Pretrained, nn.Module):
    """Hints from control latents, in every second block of a stock Wan; at first they are 0, to the bit.

    branch = ControlBranch(ControlBranchConfig.of(pipe.transformer, channels=17)).initialise(pipe.transformer)
    with branch.attach(pipe.transformer) as attached, attached.chunk(control):
        latents = pipe(prompt, output_type="latent").frames
    """

    config_class = ControlBranchConfig

    def __init__(self, config: ControlBranchConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embedding = nn.Conv3d(config.channels, config.dim, config.patch_size, config.patch_size)
        numbers = range(0, config.blocks, config.every)
        self.blocks = nn.ModuleDict({str(i): ControlBlock(config, first=i == 0) for i in numbers})

    @torch.no_grad()
    def initialise(self, transformer: nn.Module) -> ControlBranch:
        """Copy the weights of the model's own blocks, as VACE does; call it once, before training.

        Raises `InputError` where the transformer has other sizes, or blocks of another kind.
        """
        model: Any = transformer_of(transformer)
        self._check(model)
        for number, block in self.blocks.items():
            own = block.state_dict()
            block.load_state_dict({**own, **model.blocks[int(number)].state_dict()})
        return self

    def attach(self, *models: Attachable) -> AttachedControl:
        """Attach to transformers, or to all experts of a pipeline or backbone, until ``detach()`` or the end of the
        ``with`` statement.

        It may be combined with frame context, whose frames get no control, with a KV cache, which holds the model's own
        tokens, with camera positions and with memory tokens.

        Raises `InputError` where there is no transformer, one is repeated, has other sizes or blocks of another kind,
        or already has a control branch.
        """
        transformers = transformers_of(models, CONTROL_BRANCH)
        for transformer in transformers:
            self._check(transformer)
        layers = {int(number): block for number, block in self.blocks.items()}
        return AttachedControl(self, transformers, self.patch_embedding, layers)

    def _check(self, model: Any) -> None:
        if not isinstance(adapter_of(model).blocks(model)[0], WanTransformerBlock):
            raise InputError(f"A control branch is for blocks of Wan, not for those of a {type(model).__name__}.")
        if (own := ControlBranchConfig.of(model, self.config.channels, self.config.every)) != self.config:
            raise InputError(f"The transformer takes {own}, not {self.config}; create one of its sizes.")
