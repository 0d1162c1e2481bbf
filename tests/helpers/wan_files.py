"""Checkpoints of a tiny random Wan in original names, and whether what was loaded from one is that model."""

from __future__ import annotations

import functools

import torch

from memkit.backbones import WanBackbone
from tests.helpers.original_wan import random_state

HEADS = {"num_attention_heads": 2, "attention_head_dim": 24}
"""The heads of `random_state`, which cannot be inferred: those of real models have 128 channels."""


def load(source, **options):
    """The transformer of `WanBackbone.from_original`, with the heads of `random_state`."""
    return WanBackbone.from_original(source, HEADS, **options).transformer


@functools.cache
def expected(seed: int = 0):
    """The state dict of the stock model that `random_state(seed)` is."""
    return load(random_state(seed=seed)).state_dict()


def is_model(model, seed: int = 0) -> bool:
    """Whether all parameters are bit-equal to those of `random_state(seed)`."""
    found, want = model.state_dict(), expected(seed)
    return found.keys() == want.keys() and all(torch.equal(found[name], want[name]) for name in want)
