"""Small random text encoders in the folder layout of sentence-transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertModel, BertTokenizerFast, PreTrainedModel

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIAL, "a", "red", "Red", "ball", "Ball", "falls", "find", ":", "on", "the", "moon", "ice", "melts", "."]
SIZES: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "initializer_range": 0.5,  # so that texts differ clearly
}


def save_tokenizer(folder: Path, **settings: Any) -> None:
    """A tokenizer that tells upper from lower case, without a limit unless ``model_max_length`` sets one."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(str(folder / "vocab.txt"), do_lower_case=False, **settings).save_pretrained(folder)


def save_encoder(folder: Path, model: PreTrainedModel | None = None, **settings: Any) -> None:
    """``model``, by default a BERT of 64 positions, and a tokenizer with these settings."""
    if model is None:
        torch.manual_seed(0)
        model = BertModel(BertConfig(**SIZES, max_position_embeddings=64))
    model.save_pretrained(folder)
    save_tokenizer(folder, **settings)


def write_json(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def save_sentence_folder(
    folder: Path,
    encoder: dict[str, Any] | None = None,
    whole: dict[str, Any] | None = None,
    pooling: dict[str, Any] | None = None,
    kinds: tuple[str, ...] = ("Transformer", "Pooling", "Normalize"),
    model: PreTrainedModel | None = None,
    **tokenizer: Any,
) -> str:
    """A whole model; the dictionaries are added to its files ``sentence_bert_config.json`` and so on."""
    save_encoder(folder, model, **{"model_max_length": 64} | tokenizer)
    paths = ["" if kind == "Transformer" else f"{i}_{kind}" for i, kind in enumerate(kinds)]
    rows = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(zip(paths, kinds, strict=True))
    ]
    write_json(folder / "modules.json", rows)
    for path in paths[1:]:
        (folder / path).mkdir(exist_ok=True)
    write_json(
        folder / "1_Pooling/config.json", {"word_embedding_dimension": 32} | (pooling or {"pooling_mode": "mean"})
    )
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 48, "do_lower_case": False} | (encoder or {}))
    if whole is not None:
        write_json(folder / "config_sentence_transformers.json", whole)
    return str(folder)
