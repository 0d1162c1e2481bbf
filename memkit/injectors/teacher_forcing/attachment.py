"""How `TeacherForcing` runs on a stock Wan: hooks for times and prompts, and a grouping of each self-attention.

What a block needs travels with its rotary tables, so one that gradient checkpointing runs again finds the graph that it
ran with, even when that is over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from memkit.backbones.attachment import Attachment
from memkit.backbones.base import Grouping, Groups
from memkit.backbones.rotary import rotary_at
from memkit.backbones.wan_call import call_arguments
from memkit.errors import InputError, MemkitError
from memkit.frame_graph.layout import StreamLayout

if TYPE_CHECKING:
    from memkit.injectors.teacher_forcing.forcing import TeacherForcing


class _Rotary(tuple):
    """The (cos, sin) of a forward, and its chunks."""

    groups: Groups


class ForcingAttachment:
    """Teacher forcing on some transformers until ``detach`` or the end of the ``with``."""

    def __init__(self, forcing: TeacherForcing, models: Sequence[WanTransformer3DModel]) -> None:
        for model in models:
            if model.config.patch_size[0] != 1:
                raise InputError("This model patches latent frames together; teacher forcing is for one at a time.")
            for block in model.blocks:
                _check_reads(block)
        self._forcing = forcing
        self._attachment = Attachment(models, lambda _model, _layer: _Chunks())
        self._hooks: list[RemovableHandle] = []
        self._replaced: list[tuple[Any, WanAttnProcessor]] = []
        for model in models:
            self._hooks.append(model.register_forward_pre_hook(self._before, with_kwargs=True))
            self._hooks.append(model.register_forward_hook(self._after))
            self._hooks.append(model.rope.register_forward_hook(self._rotary))
            for block in model.blocks:
                self._read_by_chunk(block)

    def detach(self) -> None:
        """Take teacher forcing away; injections attached to the same blocks stay."""
        for hook in self._hooks:
            hook.remove()
        for attn, processor in self._replaced:
            attn.processor = processor
        self._hooks, self._replaced = [], []
        self._attachment.detach()

    def __enter__(self) -> ForcingAttachment:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    # -- around the model ----------------------------------------------------------------------------------------------

    def _layout(self) -> StreamLayout:
        if self._forcing.running is None:
            raise MemkitError(
                "A transformer with teacher forcing ran without a graph; call it in `with forcing.at(graph):`, or "
                "detach the forcing."
            )
        return self._forcing.running.layout

    def _before(self, model: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        named = call_arguments(args, kwargs)
        layout, x, text = self._layout(), named["hidden_states"], named["encoder_hidden_states"]
        frames, (_, down, across) = sum(layout.groups().values()), model.config.patch_size
        chunks = len(layout.graph.nodes)
        if x.shape[2] != frames:
            raise InputError(f"The two streams of the graph have {frames} frames, the latents {x.shape[2]}.")
        if text.ndim == 4 and (text.shape[1] != chunks or model.config.added_kv_proj_dim is not None):
            raise InputError(
                f"There are {text.shape[1]} prompts for {chunks} chunks; give one for all [B,L,D], or one "
                "a chunk, and that not to a model which reads images beside text (Wan2.1 I2V)."
            )
        t = named["timestep"]
        if tuple(t.shape) != (x.shape[0], frames):
            raise InputError(f"Give a timestep for each frame of the two streams, [B, {frames}], not {list(t.shape)}.")
        tokens = (x.shape[3] // down) * (x.shape[4] // across)
        return (), {**named, "timestep": t.repeat_interleave(tokens, dim=1)}

    def _after(self, model: Any, args: tuple, output: Any) -> Any:
        """Without the clean stream."""
        made = output[0][:, :, len(self._layout().frames("c")) :]
        return (made,) if isinstance(output, tuple) else type(output)(sample=made)

    def _rotary(self, rope: Any, args: tuple[Tensor], stock: Any) -> _Rotary:
        if type(stock) is not tuple:
            raise MemkitError(_OTHER_POSITIONS)
        layout = self._layout()
        height, width = args[0].shape[3] // rope.patch_size[1], args[0].shape[4] // rope.patch_size[2]
        tables = rotary_at(rope, layout.graph.positions(), height, width)
        frames = layout.frames("c") + layout.frames("x")
        rotary = _Rotary(x.unflatten(1, (-1, height * width))[:, frames].flatten(1, 2) for x in tables)
        rotary.groups = _groups(layout, height * width)
        return rotary

    def _read_by_chunk(self, block: Any) -> None:
        """Cross-attention is told which tokens read which prompt before each run of the block."""
        found = block.attn2.processor
        reading = block.attn2.processor = _ReadByChunk(found)
        self._replaced.append((block.attn2, found))

        def tell(_block: nn.Module, args: tuple[Any, ...]) -> None:
            reading.groups = _groups_of(args[3])

        self._hooks.append(block.register_forward_pre_hook(tell, prepend=True))


_OTHER_POSITIONS = (
    "Something else attached to the transformer gives its frames positions of its own (a KVCache, query layers, frame "
    "context); detach it, or the teacher forcing."
)


def _check_reads(block: Any) -> None:
    name = type(block.attn2.processor).__name__
    if isinstance(block.attn2.processor, _ReadByChunk):
        raise InputError("The transformer has teacher forcing attached; detach that first.")
    if not isinstance(block.attn2.processor, WanAttnProcessor):
        raise InputError(
            f"A block's cross-attention has the processor {name}, which may not read a chunk alone; set it back to "
            "WanAttnProcessor(), or one made of it, first."
        )


def _groups_of(rotary: Any) -> Groups:
    if not isinstance(rotary, _Rotary):
        raise MemkitError(_OTHER_POSITIONS)
    return rotary.groups


def _groups(layout: StreamLayout, tokens: int) -> Groups:
    spans, start = {}, 0
    for name, size in layout.groups(tokens).items():
        spans[name] = slice(start, start + size)
        start += size
    return Groups(spans, layout.visibility())


class _Chunks(Grouping):
    """Who sees whom in a layer."""

    def split(self, block: nn.Module, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> Groups:
        """The chunks of both streams."""
        return _groups_of(rotary)


class _ReadByChunk(WanAttnProcessor):
    """The cross-attention found; with a prompt a chunk [B,chunks,L,D], each chunk of both streams reads its own."""

    def __init__(self, stock: WanAttnProcessor) -> None:
        super().__init__()
        self.stock = stock  # or one made of it, as for short texts
        self._attention_backend = stock._attention_backend
        self._parallel_config = stock._parallel_config
        self.groups: Groups | None = None

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: Any = None,
    ) -> Tensor:
        """The output [B,S,D] of all tokens."""
        if encoder_hidden_states is None or encoder_hidden_states.ndim == 3:
            return self.stock(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)
        assert self.groups is not None
        spans, read = self.groups.spans, {}
        for i, prompt in enumerate(encoder_hidden_states.unbind(1)):
            parts = {name: hidden_states[:, spans[name]] for name in (f"c{i}", f"x{i}") if name in spans}
            if parts:
                found = self.stock(attn, torch.cat([*parts.values()], 1), prompt, attention_mask, rotary_emb)
                read |= dict(zip(parts, found.split([part.shape[1] for part in parts.values()], dim=1), strict=True))
        return torch.cat([read[name] for name in spans], dim=1)
