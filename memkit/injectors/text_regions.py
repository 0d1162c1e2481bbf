"""`TextRegions`: a prompt of its own for each region of the frames, in the cross-attention of a stock Wan.

As DiTraj masks cross-attention: tokens in the box of an object attend to the foreground's prompt, and those outside to
the background's. No mask is built, as each token attends to the text of its region alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from memkit.backbones.adapters.choice import adapter_of
from memkit.backbones.attached import Attached
from memkit.backbones.base import TEXT_REGIONS, Carrier
from memkit.backbones.cache_context import listen
from memkit.backbones.protocol import Grid, Model
from memkit.backbones.refusals import refuse_other_tokens
from memkit.backbones.unwrap import Attachable, transformers_of
from memkit.checks import shown
from memkit.errors import InputError


class TextRegions:
    """Text by region, for the conditional pass of guidance.

        regions = TextRegions(box.flatten(1).long(), [backbone.encode_text(["a red ball"])])
        with regions.attach(pipe):
            pipe("a meadow")

    Args:
        index: for each token of each frame, the number of its region: 0 for the text that the model is called with, and
            i for ``texts[i − 1]``.
        texts: embeddings of prompts, each [B or 1, T, D].
        context: name of the ``cache_context`` in which it acts; None for all calls.
    """

    def __init__(
        self, index: Int[Tensor, "frames tokens"], texts: Sequence[Float[Tensor, "_ _ _"]], context: str | None = "cond"
    ) -> None:
        if index.is_floating_point() or not 0 <= int(index.min()) <= int(index.max()) <= len(texts):
            raise InputError(f"The index is {shown(index)}; give whole numbers from 0 to {len(texts)}, one per token.")
        self.index, self.texts, self.context = index, tuple(texts), context
        self.rows = [(index.flatten() == number).nonzero().flatten() for number in range(1, len(texts) + 1)]

    def attach(self, *models: Attachable) -> Attached:
        """Attach to transformers, or to all experts of a pipeline or backbone, until ``detach()`` or the end of the
        ``with`` statement.

        Raises `InputError` where there is no transformer, one is repeated, or its cross-attention is not that of a Wan
        whose only condition is text.
        """
        transformers = transformers_of(models, TEXT_REGIONS)
        for model in transformers:
            cross = getattr(adapter_of(model).blocks(model)[0], "attn2", None)
            if cross is None or getattr(cross, "add_k_proj", None) is not None:
                raise InputError(f"{type(model).__name__} has no cross-attention to text alone; give it no regions.")
        return _AttachedRegions(self, transformers)


class _AttachedRegions(Attached):
    kind = TEXT_REGIONS
    needs_frames = True
    hooks_inside = True
    differs_by_pass = True
    owner: TextRegions

    def __init__(self, owner: TextRegions, models: Sequence[Model]) -> None:
        self._name: str | None = None
        self._undo: list[Callable[[], None]] = []
        super().__init__(owner, models)

    def install(self, model: Model) -> None:
        """A hook on the cross-attention of each block, and an ear at the model's ``cache_context``."""
        self._undo.append(listen(model, self._in_context))
        for block in adapter_of(model).blocks(model):
            self.keep(block.register_forward_pre_hook(self._note, with_kwargs=True))
            self.keep(block.attn2.register_forward_hook(self._after, with_kwargs=True))

    def detach(self) -> None:
        """Detach from all transformers; other attachments stay."""
        while self._undo:
            self._undo.pop()()
        super().detach()

    @contextmanager
    def _in_context(self, name: str, _about: dict[str, Any]) -> Iterator[None]:
        before, self._name = self._name, name
        try:
            yield
        finally:
            self._name = before

    def rotary(self, model: Model, grid: Grid | None, carrier: Carrier) -> Carrier:
        """The rows of tokens of each region, and its text embedded; none where it does not act."""
        assert grid is not None
        index, parts = self.owner.index, []
        if tuple(index.shape) != (grid.frames, grid.tokens_per_frame):
            raise InputError(f"Regions are of {list(index.shape)} tokens, not {grid[:3]}; give one per token.")
        if self.owner.context in (None, self._name):
            for rows, text in zip(self.owner.rows, self.owner.texts, strict=True):
                if len(rows):
                    text = text.to(model.device, model.dtype)
                    parts.append((rows.to(model.device), model.condition_embedder.text_embedder(text)))
        return carrier.with_state(self.key, (grid, parts))

    def _note(self, block: object, args: tuple, kwargs: dict) -> None:
        self._carrier = next(each for each in (*args, *kwargs.values()) if isinstance(each, Carrier))

    def _after(self, attn: Any, args: tuple, kwargs: dict, out: Tensor) -> Tensor:
        grid, parts = self._carrier.state(self.key)
        hidden, _, *more = args
        refuse_other_tokens(self.kind, grid.frames, grid.tokens_per_frame, hidden.shape[1], self._carrier)
        for rows, text in parts:
            own = attn.forward(hidden[:, rows], text.expand(len(hidden), -1, -1), *more, **kwargs)
            out = out.index_copy(1, rows, own.to(out.dtype))
        return out
