"""`TextCache`: text embeddings for training, encoded once per caption."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memkit.backbones.wan import WanBackbone
from memkit.checks import check_whole, text_list
from memkit.display import counted, described
from memkit.errors import InputError
from memkit.generation.short_text import PIPELINE_TEXT_LENGTH


class TextCache:
    """Text embeddings of captions, padded to one length.

    Each caption is encoded once, by itself, and kept on the CPU without its padding: a caption has the same embedding
    in any batch.

    Args:
        backbone: encodes the captions.
        length: number of tokens to which captions are padded. Below the pipeline's 512, embeddings are those that
            `short_texts` takes, which act like the pipeline's at a fraction of the cost.
    """

    def __init__(self, backbone: WanBackbone, length: int) -> None:
        check_whole("length", length, 1, PIPELINE_TEXT_LENGTH)
        self.backbone = backbone
        self.length = length
        self._embeds: dict[str, Tensor] = {}

    def __repr__(self) -> str:
        return described(self, counted(len(self._embeds), "caption"), f"length {self.length}")

    def __call__(self, captions: str | Sequence[str]) -> Float[Tensor, "captions tokens dim"]:
        """The embeddings of some captions, on the CPU; one string is one caption.

        Returns:
            [captions, length + 1, dim] whose last token is zero, as `short_texts` takes them, or [captions, 512, dim]
            if ``length`` is 512.

        Raises:
            InputError: a caption has more than ``length`` tokens.
        """
        rows = torch.stack([self._padded(caption) for caption in text_list("captions", captions)])
        return rows if self.length == PIPELINE_TEXT_LENGTH else nn.functional.pad(rows, (0, 0, 0, 1))

    def _padded(self, caption: str) -> Tensor:
        if caption not in self._embeds:
            text = self.backbone.encode_text([caption])[0].cpu()
            real = int(text.ne(0).any(dim=1).nonzero().max()) + 1
            if real > self.length:
                raise InputError(
                    f"{caption!r} has {real} text tokens, more than the length of {self.length}; give a length of "
                    f"{real} or more (in the recipes, --text-length {real})."
                )
            self._embeds[caption] = text[:real].clone()
        embeds = self._embeds[caption]
        return nn.functional.pad(embeds, (0, 0, 0, self.length - len(embeds)))
