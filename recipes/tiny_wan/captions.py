"""Captions for the training of tiny-wan: any part may be missing; and the tokenizer made from them."""

from __future__ import annotations

import random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

_CONSONANTS, _VOWELS = "bdfghjklmnprstv", "aeiou"


def vary_caption(parts: list[list], rng: random.Random) -> str:
    """A caption with pieces that are not needed left out, a fifth each; ``parts`` are those of a clip's row.

    A name that stands for a constant is replaced by one made up, a fifth of the time: so the model learns that a name
    it does not know says nothing of the constant.
    """
    words = []
    for text, needed, name in parts:
        if not needed and rng.random() < 0.2:
            continue
        if name and rng.random() < 0.2:
            made_up = "".join(rng.choice(_CONSONANTS) + rng.choice(_VOWELS) for _ in range(2))
            text = text.replace(name, made_up.capitalize() if name[0].isupper() else made_up)
        words.append(text)
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
