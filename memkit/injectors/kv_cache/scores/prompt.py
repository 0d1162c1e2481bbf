"""`PromptMatch`: frames whose keys match the prompt (MemFlow): the mean of K_text · k / √d.

K_text are the keys of the text in the model's cross-attention, here in the place of queries. As this is a mean over all
pairs, it is the product of the mean keys. That it is averaged over layers, heads and samples is our reading, and that
all tokens of the text count, padding too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.backbones.adapters.choice import adapter_of
from memkit.errors import InputError, MemkitError
from memkit.injectors.kv_cache.scores.base import Held, Need, Score
from memkit.injectors.kv_cache.scores.keys import keys_of, mean_over_layers


class PromptMatch(Score):
    """How well each frame's keys match ``branch.prompt``, which a `Stream` sets; by hand, set it to `text_keys`.

    ``layers`` are those that are looked at, by default all.

    Raises:
        InputError: when it is asked for scores before a prompt was set.
    """

    needs = frozenset[Need](["prompt"])

    def __init__(self, layers: tuple[int, ...] | None = None) -> None:
        self.layers = layers

    def score(self, held: Held, positions: Sequence[int], chunk: Sequence[int]) -> Float[Tensor, " frames"]:
        if held.prompt is None or len(held.prompt) != held.layers:
            raise InputError(
                f"PromptMatch needs the keys of the prompt in each of the {held.layers} layers; set branch.prompt to "
                "text_keys(transformer, text) before each chunk."
            )
        layers = tuple(range(held.layers)) if self.layers is None else self.layers
        rows = []
        for layer, frames in zip(layers, keys_of(held, positions, layers), strict=True):
            asked = held.prompt[layer]
            rows.append([(asked.to(k) * k.mean(1)).sum(-1).mean() / k.shape[-1] ** 0.5 for k in frames])
        return mean_over_layers(rows)


@torch.no_grad()
def text_keys(transformer: Any, text: Float[Tensor, "batch tokens dim"]) -> list[Float[Tensor, "batch heads head_dim"]]:
    """The mean key of the text in the cross-attention of each layer of a Wan.

    Raises:
        MemkitError: the model has no cross-attention like that of Wan.
    """
    keys = []
    try:
        hidden = transformer.condition_embedder.text_embedder(text.to(transformer.dtype))
        for block in adapter_of(transformer).blocks(transformer):
            k = block.attn2.norm_k(block.attn2.to_k(hidden))
            keys.append(k.unflatten(2, (block.attn2.heads, -1)).mean(1))
    except AttributeError as error:
        raise MemkitError(
            f"{type(transformer).__name__} has no cross-attention like that of Wan ({error}); compute the mean keys of "
            "the text yourself, [B, H, D] per layer, and set branch.prompt to them."
        ) from error
    return keys
