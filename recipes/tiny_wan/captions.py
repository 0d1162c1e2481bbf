"""Captions for the training of tiny-wan: any part may be missing; and the tokenizer made from them."""

from __future__ import annotations

import random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

_SYLLABLES = (
    "an",
    "be",
    "co",
    "du",
    "el",
    "fi",
    "go",
    "hu",
    "ik",
    "ja",
    "ku",
    "lo",
    "mi",
    "no",
    "or",
    "pa",
    "ri",
    "so",
    "tu",
    "va",
)


def vary_caption(row: dict, rng: random.Random) -> str:
    """The caption of a clip with parts left out at random.

    A planet is named in 60 % of the captions, by its own name or (a fifth of the time) by one made up, from which the
    model learns that a name it does not know says nothing of gravity.
    """
    words = ["a"]
    if rng.random() < 0.8:
        words.append(row["size"])
    words.append(row["colour"])
    if rng.random() < 0.8:
        words.append(row["material"])
    words.append(row["shape"])
    words.append(row["caption"].split(f" {row['shape']} ")[1].split(f" {row['place']}")[0])
    if rng.random() < 0.8:
        words.append(row["place"])
    if rng.random() < 0.75:
        made_up = "".join(rng.choice(_SYLLABLES) for _ in range(2)).capitalize()
        words.append(f"on planet {made_up if rng.random() < 0.2 else row['planet']}")
    return " ".join(words)


def train_tokenizer(captions: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE: a word of the captions is one token, other text falls into bytes, nothing is unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\s+"), "removed"),
            pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", padding_side="right"
    )
