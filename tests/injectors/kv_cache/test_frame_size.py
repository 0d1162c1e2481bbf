"""A session is of one frame size: as many tokens in other rows and columns are not continued."""

import pytest
import torch

from memkit.errors import InputError
from memkit.injectors import KVCache
from tests.helpers.random_wan import random_pipeline


def kv(tokens: int = 8) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.zeros(1, tokens, 2, 4), torch.zeros(1, tokens, 2, 4))]


def test_frames_of_another_size_are_not_written(tmp_path):
    cache = KVCache(10**5)
    cache.branch().update([0], kv(), frame_size=(2, 4))
    for size in ((4, 2), (2, 2)):
        with pytest.raises(InputError, match="8 in 2 and 4|in 2 rows and 4 columns"):
            cache.branch().update([1], kv(), frame_size=size)
    cache.save(tmp_path / "cache")
    again = KVCache.load(tmp_path / "cache").branch()
    assert again.frame_size == (2, 4) and again.positions == (0,)
    again.update([1], kv())  # one that does not tell is taken for the same
    assert again.frame_size == (2, 4)
    again.reset()
    again.update([0], kv(), frame_size=(4, 2))
    assert again.frame_size == (4, 2)


def test_a_model_does_not_continue_frames_of_another_size():
    model, text = random_pipeline().transformer, torch.zeros(1, 4, 32)
    cache = KVCache(10**7)

    def run(height: int, width: int, at: int, **chunk) -> None:
        with attached.chunk([at], **chunk), torch.no_grad():
            model(torch.zeros(1, 16, 1, height, width), torch.zeros(1), text)

    with cache.attach(model) as attached:
        run(4, 8, 0, write=True)
        for chunk in ({}, {"read": [], "write": True}):
            with pytest.raises(InputError, match="2 rows and 4 columns, the new ones 8 in 4 and 2"):
                run(8, 4, 1, **chunk)
        run(8, 4, 1, read=[])  # which has nothing to do with the cached ones
        run(4, 8, 1, write=True)
    assert cache.branch().positions == (0, 1)
