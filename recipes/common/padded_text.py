"""Train on the text that there is, with the attention of the pipeline's padding; see `memkit.generation.short_text`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from memkit.backbones import WanBackbone
from memkit.errors import InputError
from memkit.generation import short_texts
from memkit.generation.short_text import PIPELINE_TEXT_LENGTH


class TextCache:
    """Text embeddings of captions, each computed once, alone, and kept without its padding, on the CPU."""

    def __init__(self, backbone: WanBackbone, length: int) -> None:
        self.backbone = backbone
        self.length = length
        self._known: dict[str, Tensor] = {}

    def __call__(self, captions: list[str]) -> Tensor:
        """[B, length + 1, D] with a zero at the end, or [B, 512, D] at the pipeline's length."""
        rows = torch.stack([self._padded(caption) for caption in captions])
        return rows if self.length == PIPELINE_TEXT_LENGTH else nn.functional.pad(rows, (0, 0, 0, 1))

    def _padded(self, caption: str) -> Tensor:
        if caption not in self._known:
            text = self.backbone.encode_text([caption])[0].cpu()
            real = int(text.ne(0).any(dim=1).nonzero().max()) + 1
            if real > self.length:
                raise InputError(f"{caption!r} has {real} text tokens; pass --text-length {real} or more.")
            self._known[caption] = text[:real].clone()
        known = self._known[caption]
        return nn.functional.pad(known, (0, 0, 0, self.length - len(known)))


@contextmanager
def prepared(backbone: WanBackbone, text_length: int, checkpointing: bool) -> Iterator[None]:
    """Inside, the experts take short texts and recompute activations, as told; afterwards they are as before."""
    with ExitStack() as stack:
        stack.enter_context(short_texts(backbone.transformers, text_length))
        for transformer in backbone.transformers:
            if checkpointing:
                transformer.enable_gradient_checkpointing()
                stack.callback(transformer.disable_gradient_checkpointing)
        yield
