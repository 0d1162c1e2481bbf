"""How `TeacherForcing` is attached to a stock Wan: hooks for timesteps and prompts, and groups in self-attention.

The state of a forward pass travels in its `Carrier`, so a block that gradient checkpointing recomputes finds the graph
that it first ran with, even after the chunk has been closed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import Tensor, nn

from memkit.backbones.adapters.choice import adapter_of
from memkit.backbones.attached import Attached
from memkit.backbones.base import TEACHER_FORCING, Carrier, Grouping, Groups
from memkit.backbones.protocol import Grid, Model
from memkit.backbones.running import Running
from memkit.errors import InputError
from memkit.frame_graph.graph import FrameGraph
from memkit.frame_graph.layout import StreamLayout
from memkit.injectors.teacher_forcing.step import ForcedStep

KEY = TEACHER_FORCING


class AttachedForcing(Attached):
    """Teacher forcing attached to transformers until ``detach()`` or the end of the ``with`` statement.

    While attached, a transformer runs only inside `chunk`.
    """

    kind = KEY
    places_frames = True

    def __init__(self, owner: object, models: Sequence[Model]) -> None:
        for model in models:
            if adapter_of(model).sizes(model).patch_size[0] != 1:
                raise InputError(
                    "This model patches latent frames together; teacher forcing needs a patch size of one latent frame."
                )
        self.running: Running[ForcedStep] = Running(self.kind, self.begin_chunk)
        self._replaced: list[tuple[Any, _ReadByChunk]] = []
        self._tokens = 0  # per frame, of the forward pass that runs
        super().__init__(owner, models)

    def chunk(self, graph: FrameGraph, for_loss: bool = False) -> ForcedStep:
        """A context manager in which the attached transformers run on the two streams of ``graph``.

        A call takes latents [B,C,2F,H,W], the clean stream followed by the noisy one, timesteps [B,2F], one per frame,
        and text [B,L,D], or [B,chunks,L,D] for one prompt per chunk. It returns the velocity of the noisy stream
        [B,C,F,H,W]. `ForcedStep.velocity` makes this call. ``backward`` may be called after the ``with`` statement.

        Args:
            graph: the frame graph, used for all samples of the batch.
            for_loss: run only the noisy chunks that carry loss and the clean chunks that are visible to them. The loss
                and its gradients are the same, at the cost of the remaining tokens.

        Raises:
            InputError: ``for_loss`` is set, but no frame of the graph carries loss.
        """
        return ForcedStep(self.running, StreamLayout.of(graph, for_loss))

    def part(self, model: Model, layer: int) -> Grouping:
        return _Chunks()

    def install(self, model: Model) -> None:
        """Register hooks on the model and each block, and replace the processor of each cross-attention."""
        self.keep(model.register_forward_pre_hook(self._before, with_kwargs=True))
        self.keep(model.register_forward_hook(self._after))
        adapter = adapter_of(model)
        if isinstance(model, WanTransformer3DModel):
            self.keep(model.condition_embedder.register_forward_pre_hook(self._one_per_frame, with_kwargs=True))
            self.keep(model.condition_embedder.register_forward_hook(self._one_per_token))
        for block in adapter.blocks(model):
            attn: Any = block.attn2
            _check_cross_attention(attn, adapter.processors)
            reading = attn.processor = _ReadByChunk(attn.processor)
            self._replaced.append((attn, reading))
            self.keep(block.register_forward_pre_hook(_give_prompts))

    def detach(self) -> None:
        """Detach teacher forcing; other attachments stay, and so do processors that were set in the meantime."""
        while self._replaced:
            attn, reading = self._replaced.pop()
            if attn.processor is reading:
                attn.processor = reading.stock
        super().detach()

    # -- around the model ----------------------------------------------------------------------------------------------

    def _before(self, model: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        adapter = adapter_of(model)
        named = adapter.arguments(args, kwargs)
        layout, x, text = self.running.current().layout, named["hidden_states"], named["encoder_hidden_states"]
        frames, (_, down, across) = sum(layout.groups().values()), adapter.sizes(model).patch_size
        chunks = len(layout.graph.nodes)
        if x.shape[2] != frames:
            raise InputError(
                f"The two streams of the graph have {frames} frames, the latents {x.shape[2]}; give the clean stream, "
                "followed by the noisy one."
            )
        if text.ndim == 4 and (text.shape[1] != chunks or model.config.added_kv_proj_dim is not None):
            raise InputError(
                f"There are {text.shape[1]} prompts for {chunks} chunks; give one for all [B,L,D] or one per chunk "
                "[B,chunks,L,D]. A model with image embeddings (Wan2.1 I2V) supports only one for all."
            )
        t = named["timestep"]
        if tuple(t.shape) != (x.shape[0], frames):
            raise InputError(f"Give a timestep for each frame of the two streams, [B, {frames}], not {list(t.shape)}.")
        grid = Grid(frames, x.shape[3] // down, x.shape[4] // across)
        self._tokens = grid.tokens_per_frame
        return (), adapter.with_timesteps(named, adapter.timesteps(t, len(x), grid))

    def _one_per_frame(self, _embedder: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """Embed one timestep per frame: a frame's tokens have the same, and stock Wan would embed it for each."""
        timestep, *others = args
        frames = kwargs["timestep_seq_len"] // self._tokens
        return (timestep[:: self._tokens], *others), {**kwargs, "timestep_seq_len": frames}

    def _one_per_token(self, _embedder: Any, _args: tuple, output: tuple) -> tuple:
        """The embedding and the modulation of each frame, for each of its tokens."""
        both = (x[:, :, None].expand(-1, -1, self._tokens, -1).flatten(1, 2) for x in output[:2])
        return (*both, *output[2:])

    def _after(self, model: Any, args: tuple, output: Any) -> Any:
        """Return only the velocity of the noisy stream."""
        noisy = output[0][:, :, len(self.running.current().layout.frames("c")) :]
        return (noisy,) if isinstance(output, tuple) else type(output)(sample=noisy)

    def rotary(self, model: Model, grid: Grid | None, carrier: Carrier) -> Carrier:
        """Rotary tables of both streams, and their groups as state."""
        layout = self.running.current().layout
        assert grid is not None
        tables = adapter_of(model).rotary_at(model, layout.graph.positions(), grid)
        frames = layout.frames("c") + layout.frames("x")
        cos, sin = (x.unflatten(1, (-1, grid.tokens_per_frame))[:, frames].flatten(1, 2) for x in tables)
        return carrier._replace(cos=cos, sin=sin).with_state(self.key, _groups(layout, grid.tokens_per_frame))


class ChunkPrompts(NamedTuple):
    """Replaces a block's text: one prompt per chunk [B,chunks,L,D], and the groups of tokens that read them."""

    text: Tensor
    groups: Groups


def _give_prompts(_block: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Forward pre-hook of a block: passes the prompts per chunk and the groups of tokens to its cross-attention."""
    hidden, text, temb, carrier, *others = args
    return (hidden, ChunkPrompts(text, carrier.state(KEY)), temb, carrier, *others) if text.ndim == 4 else None


def _check_cross_attention(attn: Any, stock: tuple[type, ...]) -> None:
    if not isinstance(attn.processor, stock):
        raise InputError(
            f"A block's cross-attention has the processor {type(attn.processor).__name__}, which may not support one "
            f"prompt per chunk; set it back to {stock[0].__name__}(), or to a subclass of it, first."
        )


def _groups(layout: StreamLayout, tokens: int) -> Groups:
    spans, start = {}, 0
    for name, size in layout.groups(tokens).items():
        spans[name] = slice(start, start + size)
        start += size
    return Groups(spans, layout.visibility())


class _Chunks(Grouping):
    """The visibility between the chunks of both streams."""

    def split(self, carrier: Carrier) -> Groups:
        """The chunks of both streams and their visibility."""
        return carrier.state(KEY)


class _ReadByChunk(WanAttnProcessor):
    """The original cross-attention; with one prompt per chunk, each chunk of both streams reads its own prompt."""

    def __init__(self, stock: Any) -> None:
        super().__init__()
        self.stock = stock  # or a subclass, such as the processor for short texts
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
        spans, outputs = encoder_hidden_states.groups.spans, {}
        for i, prompt in enumerate(encoder_hidden_states.text.unbind(1)):
            parts = {name: hidden_states[:, spans[name]] for name in (f"c{i}", f"x{i}") if name in spans}
            if parts:
                output = self.stock(attn, torch.cat([*parts.values()], 1), prompt, attention_mask, rotary_emb)
                sizes = [part.shape[1] for part in parts.values()]
                outputs |= dict(zip(parts, output.split(sizes, dim=1), strict=True))
        return torch.cat([outputs[name] for name in spans], dim=1)
