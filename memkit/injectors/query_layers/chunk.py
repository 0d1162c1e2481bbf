"""What `QueryLayers` shows while a chunk is made: the context, which is run once for all of its denoising steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from memkit.errors import InputError, MemkitError

if TYPE_CHECKING:
    from memkit.injectors.query_layers.attachment import QueryAttachment
    from memkit.injectors.query_layers.monitor import QueryMonitor, QueryRow

KeysAndValues = tuple[Tensor, Tensor]


@dataclass
class Pass:
    """One forward of a transformer: of the context, which leaves its keys and values in ``kept``, or of Q and P."""

    positions: tuple[int, ...]
    poses: Tensor | None
    kind: str
    of_context: bool
    context: list[KeysAndValues] = field(default_factory=list)
    """Of each query layer, for Q to see."""
    kept: dict[int, KeysAndValues] = field(default_factory=dict)
    row: QueryRow | None = None
    """Where a monitor wants the shares of the context."""


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
    monitor: QueryMonitor | None


class QueryChunk:
    """The context that the transformers see while it is open; made by `QueryAttachment.chunk`.

    ``runs`` counts the passes of the context: one for each text and transformer where gradients are off and C is
    clean, else one a call. ``made`` [B,C,F,H,W] is the velocity that the latest call gave for Q's frames, which
    generation has no use for; see `LearnedContext.fetched`.
    """

    def __init__(self, attachment: QueryAttachment, given: ChunkInputs) -> None:
        self.given = given
        self.runs = 0
        self.made: Tensor | None = None
        self._attachment = attachment
        self._kept: list[tuple[Any, Tensor, list[KeysAndValues]]] = []

    def __enter__(self) -> QueryChunk:
        if self._attachment.open is not None:
            raise MemkitError("The transformers are in a chunk already; chunks do not nest.")
        self._attachment.open = self
        return self

    def __exit__(self, *_: object) -> None:
        self._attachment.open = None
        self._kept.clear()
        self.made = None

    def context(self, model: Any, named: dict[str, Any]) -> list[KeysAndValues]:
        """Keys and values of the context in each query layer, for this text and, if it is shared, this timestep."""
        latents, x = self.given.context, named["hidden_states"]
        if latents is None:
            return []
        text, clean = named["encoder_hidden_states"], self._attachment.query.config.context_time == "clean"
        if clean and not torch.is_grad_enabled():
            for known, words, context in self._kept:
                if known is model and words is text:
                    return context
        self.runs += 1
        if (
            latents.shape[0] not in (1, x.shape[0])
            or latents.shape[1] != x.shape[1]
            or latents.shape[3:] != x.shape[3:]
        ):
            raise InputError(
                f"The context has latents {list(latents.shape)}, the prediction {list(x.shape)}; "
                "give one row or one a sample, of the same channels and size."
            )
        t = named["timestep"]
        one = (t if t.ndim == 1 else t[:, -1]).expand(x.shape[0])
        given = {"hidden_states": latents.to(x).expand(x.shape[0], *latents.shape[1:])}
        given["timestep"] = torch.zeros_like(one) if clean else one
        context = self._attachment.run_context(model, {**named, **given}, self.given)
        if clean and not torch.is_grad_enabled():
            self._kept.append((model, text, context))
        return context
