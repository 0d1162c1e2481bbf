"""`TextCache` gives the embeddings of the backbone, encoding each caption once."""

from __future__ import annotations

import pytest
import torch

from memkit.backbones import WanBackbone
from memkit.errors import InputError
from memkit.generation import TextCache, embed_short

CAPTIONS = ["a red ball falls", "a cat"]


@pytest.fixture(scope="module")
def backbone(random_folder) -> WanBackbone:
    return WanBackbone.from_pretrained(random_folder)


def test_rows_are_the_backbone_s_own(backbone) -> None:
    torch.testing.assert_close(TextCache(backbone, 512)(CAPTIONS), backbone.encode_text(CAPTIONS))
    torch.testing.assert_close(TextCache(backbone, 16)(CAPTIONS), embed_short(backbone, CAPTIONS, 16))


def test_a_caption_is_encoded_once_and_has_the_same_row_in_any_batch(backbone, monkeypatch) -> None:
    encoded = []
    encode = backbone.encode_text
    monkeypatch.setattr(backbone, "encode_text", lambda texts: encoded.extend(texts) or encode(texts))
    text = TextCache(backbone, 16)
    first, alone = text(CAPTIONS), text(CAPTIONS[1:])
    assert torch.equal(alone[0], first[1]) and torch.equal(text(CAPTIONS[::-1]), first.flip(0))
    assert encoded == CAPTIONS


def test_a_caption_too_long_is_named(backbone) -> None:
    with pytest.raises(InputError, match="--text-length"):
        TextCache(backbone, 3)(["a red ball falls"])
