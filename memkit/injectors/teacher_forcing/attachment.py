"""How `TeacherForcing` runs on a stock Wan: hooks for times and prompts, and a grouping of each self-attention.

What a block needs travels in its `Carrier`, so one that gradient checkpointing runs again finds the graph that it ran
with, even when that is over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import Tensor, nn

from memkit.backbones.attached import Attached, Running
from memkit.backbones.base import Carrier, Grouping, Groups
from memkit.backbones.rotary import rotary_at
from memkit.backbones.wan_call import call_arguments
from memkit.errors import InputError
from memkit.frame_graph.graph import FrameGraph
from memkit.frame_graph.layout import StreamLayout
from memkit.injectors.teacher_forcing.step import ForcedStep

KEY = "teacher forcing"


class AttachedForcing(Attached):
    """Teacher forcing on some transformers until ``detach`` or the end of the ``with``.

    Attached, a transformer runs inside `chunk` only.
    """

    kind = KEY
    places_frames = True

    def __init__(self, owner: object, models: Sequence[WanTransformer3DModel]) -> None:
        for model in models:
            if model.config.patch_size[0] != 1:
                raise InputError("This model patches latent frames together; teacher forcing is for one at a time.")
        self.running: Running[ForcedStep] = Running(self.kind)
        self._replaced: list[tuple[Any, _ReadByChunk]] = []
        super().__init__(owner, models)

    def chunk(self, graph: FrameGraph, for_loss: bool = False) -> ForcedStep:
        """A ``with`` in which attached transformers run on the streams of ``graph``, one for the whole batch.

        A call then takes latents [B,C,2F,H,W], the clean stream before the noisy one, timesteps [B,2F], one per frame,
        and text [B,L,D], or [B,chunks,L,D] for a prompt per chunk; it gives the velocity of the noisy stream
        [B,C,F,H,W]. `ForcedStep.velocity` makes that call. ``backward`` may come later.

        ``for_loss`` runs only what the loss is computed from: the noisy chunks that carry loss and the clean ones that
        they see. The loss and its gradients are the same, the cost is that of the tokens that are left. Raises
        `InputError` where no frame carries loss.
        """
        return ForcedStep(self.running, StreamLayout.of(graph, for_loss))

    def part(self, model: WanTransformer3DModel, layer: int) -> Grouping:
        return _Chunks()

    def install(self, model: WanTransformer3DModel) -> None:
        """Hooks around the model and of each block, and a processor of each cross-attention."""
        self.keep(model.register_forward_pre_hook(self._before, with_kwargs=True))
        self.keep(model.register_forward_hook(self._after))
        for block in model.blocks:
            attn: Any = block.attn2
            _check_cross_attention(attn)
            reading = attn.processor = _ReadByChunk(attn.processor)
            self._replaced.append((attn, reading))
            self.keep(block.register_forward_pre_hook(_give_prompts))

    def detach(self) -> None:
        """Take teacher forcing away; what else is attached stays, and so does a processor that was set since."""
        while self._replaced:
            attn, reading = self._replaced.pop()
            if attn.processor is reading:
                attn.processor = reading.stock
        super().detach()

    # -- around the model ----------------------------------------------------------------------------------------------

    def _before(self, model: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        named = call_arguments(args, kwargs)
        layout, x, text = self.running.current().layout, named["hidden_states"], named["encoder_hidden_states"]
        frames, (_, down, across) = sum(layout.groups().values()), model.config.patch_size
        chunks = len(layout.graph.nodes)
        if x.shape[2] != frames:
            raise InputError(f"The two streams of the graph have {frames} frames, the latents {x.shape[2]}.")
        if text.ndim == 4 and (text.shape[1] != chunks or model.config.added_kv_proj_dim is not None):
            raise InputError(
                f"There are {text.shape[1]} prompts for {chunks} chunks; give one for all [B,L,D], or one "
                "per chunk, and that not to a model which reads images beside text (Wan2.1 I2V)."
            )
        t = named["timestep"]
        if tuple(t.shape) != (x.shape[0], frames):
            raise InputError(f"Give a timestep for each frame of the two streams, [B, {frames}], not {list(t.shape)}.")
        tokens = (x.shape[3] // down) * (x.shape[4] // across)
        return (), {**named, "timestep": t.repeat_interleave(tokens, dim=1)}

    def _after(self, model: Any, args: tuple, output: Any) -> Any:
        """Without the clean stream."""
        noisy = output[0][:, :, len(self.running.current().layout.frames("c")) :]
        return (noisy,) if isinstance(output, tuple) else type(output)(sample=noisy)

    def rotary(self, model: WanTransformer3DModel, latents: Tensor, carrier: Carrier) -> Carrier:
        """The tables of both streams, and their groups."""
        layout, (down, across) = self.running.current().layout, model.config.patch_size[1:]
        height, width = latents.shape[3] // down, latents.shape[4] // across
        tables = rotary_at(model.rope, layout.graph.positions(), height, width)
        frames = layout.frames("c") + layout.frames("x")
        cos, sin = (x.unflatten(1, (-1, height * width))[:, frames].flatten(1, 2) for x in tables)
        return carrier._replace(cos=cos, sin=sin).with_state(self.key, _groups(layout, height * width))


class ChunkPrompts(NamedTuple):
    """In place of a block's text: a prompt per chunk [B,chunks,L,D], and which tokens read which."""

    text: Tensor
    groups: Groups


def _give_prompts(_block: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Forward pre-hook of a block: its cross-attention is told which tokens read which prompt."""
    hidden, text, temb, carrier = args
    return (hidden, ChunkPrompts(text, carrier.state(KEY)), temb, carrier) if text.ndim == 4 else None


def _check_cross_attention(attn: Any) -> None:
    if not isinstance(attn.processor, WanAttnProcessor):
        raise InputError(
            f"A block's cross-attention has the processor {type(attn.processor).__name__}, which may not read a "
            "chunk alone; set it back to WanAttnProcessor(), or one derived from it, first."
        )


def _groups(layout: StreamLayout, tokens: int) -> Groups:
    spans, start = {}, 0
    for name, size in layout.groups(tokens).items():
        spans[name] = slice(start, start + size)
        start += size
    return Groups(spans, layout.visibility())


class _Chunks(Grouping):
    """The visibility of a layer's tokens."""

    def split(self, carrier: Carrier) -> Groups:
        """The chunks of both streams."""
        return carrier.state(KEY)


class _ReadByChunk(WanAttnProcessor):
    """The cross-attention found; with a prompt per chunk, each chunk of both streams reads its own."""

    def __init__(self, stock: WanAttnProcessor) -> None:
        super().__init__()
        self.stock = stock  # or one derived from it, as for short texts
        self._attention_backend = stock._attention_backend
        self._parallel_config = stock._parallel_config

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | ChunkPrompts | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: Any = None,
    ) -> Tensor:
        """The output [B,S,D] of all tokens."""
        if not isinstance(encoder_hidden_states, ChunkPrompts):
            return self.stock(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)
        spans, read = encoder_hidden_states.groups.spans, {}
        for i, prompt in enumerate(encoder_hidden_states.text.unbind(1)):
            parts = {name: hidden_states[:, spans[name]] for name in (f"c{i}", f"x{i}") if name in spans}
            if parts:
                found = self.stock(attn, torch.cat([*parts.values()], 1), prompt, attention_mask, rotary_emb)
                read |= dict(zip(parts, found.split([part.shape[1] for part in parts.values()], dim=1), strict=True))
        return torch.cat([read[name] for name in spans], dim=1)
