"""`QueryChunk`: the context of `QueryLayers` while a chunk is generated, computed once for all denoising steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from memkit.backbones.adapters.choice import adapter_of
from memkit.backbones.running import Running
from memkit.backbones.samples import several_videos
from memkit.errors import InputError
from memkit.injectors.attention_recorder import AttentionRecorder, Row

KeysAndValues = tuple[Tensor, Tensor]


class Pass:
    """State of one forward pass: that of the context, which collects keys and values in ``kept``, or that of Q and P.

    This is not a dataclass, because FSDP copies dataclasses, and the dictionaries in them, when they enter a block.
    """

    def __init__(
        self,
        positions: tuple[int, ...],
        poses: Tensor | None,
        kind: str,
        of_context: bool,
        context_frames: int = 0,
        context: Sequence[KeysAndValues] = (),
        row: Row | None = None,
        of_queries: bool = False,
    ) -> None:
        self.positions, self.poses, self.kind, self.of_context = positions, poses, kind, of_context
        self.context_frames, self.context = context_frames, context  # keys and values of C per query layer
        self.kept: dict[int, KeysAndValues] = {}
        self.row, self.of_queries = row, of_queries  # the recorder's row; whether to record P on Q too


@dataclass(frozen=True)
class ChunkInputs:
    """The arguments of a chunk."""

    context: Tensor | None
    query: Tensor | None
    positions: tuple[int, ...] | None
    context_positions: tuple[int, ...]
    poses: Tensor | None
    context_poses: Tensor | None
    kind: str
    recorder: AttentionRecorder | None


class QueryChunk:
    """The context of the transformers while it is open; created by `AttachedQueries.chunk`.

    ``runs`` counts the passes of the context: one per text and transformer if gradients are disabled and the context is
    clean, otherwise one per call. ``query_velocity`` [B,C,F,H,W] is the velocity of Q in the latest call, which is not
    used for generation; see `LearnedContext.fetched`.
    """

    def __init__(
        self,
        running: Running[QueryChunk],
        inputs: ChunkInputs,
        clean: bool,
        run_context: Callable[[Any, dict[str, Any], ChunkInputs], list[KeysAndValues]],
    ) -> None:
        self.inputs = inputs
        self.runs = 0
        self.query_velocity: Tensor | None = None
        self._running, self._clean, self._run_context = running, clean, run_context
        self._kept: list[tuple[Any, Tensor, list[KeysAndValues]]] = []

    def __enter__(self) -> QueryChunk:
        self._running.enter(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._running.leave()
        self._kept.clear()
        self.query_velocity = None

    def context(self, model: Any, named: dict[str, Any]) -> list[KeysAndValues]:
        """Keys and values of the context in each query layer, for this text and, if shared, this timestep."""
        latents, x = self.inputs.context, named["hidden_states"]
        if latents is None:
            return []
        text, clean = named["encoder_hidden_states"], self._clean
        if clean and not torch.is_grad_enabled():
            for cached_model, cached_text, context in self._kept:
                if cached_model is model and cached_text is text:
                    return context
        self.runs += 1
        if (
            latents.shape[0] not in (1, x.shape[0])
            or latents.shape[1] != x.shape[1]
            or latents.shape[3:] != x.shape[3:]
        ):
            raise InputError(
                f"The context has latents {list(latents.shape)}, the prediction {list(x.shape)}; "
                "give one context for all samples or one per sample, of the same channels and size."
                + several_videos(latents.shape[0], x.shape[0], "give context.repeat_interleave({n}, dim=0)")
            )
        t = named["timestep"]
        timestep = (t if t.ndim == 1 else t[:, -1]).expand(x.shape[0])
        named = {**named, "hidden_states": latents.to(x).expand(x.shape[0], *latents.shape[1:])}
        timestep = torch.zeros_like(timestep) if clean else timestep
        context = self._run_context(model, adapter_of(model).with_timesteps(named, timestep), self.inputs)
        if clean and not torch.is_grad_enabled():
            self._kept.append((model, text, context))
        return context
