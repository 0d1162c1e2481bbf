"""Wrong use of a KVCache raises an error that names it."""

import pytest
import torch

from memkit.errors import InputError, MemkitError
from memkit.injectors import KVCache
from tests.helpers.random_wan import random_transformer
from tests.injectors.kv_cache.common import fill, latents, new_cache, run


def test_wrong_use_is_named(model):
    cache = new_cache(model)
    with pytest.raises(InputError, match="name"):
        KVCache(1, ("a", "a"))
    with pytest.raises(InputError, match="0 bytes"):
        KVCache(0)
    with cache.attach(model) as attached:
        pass
    with pytest.raises(MemkitError, match="not attached"):
        attached.chunk([0])
    for wrong in ((), (model, model)):
        with pytest.raises(InputError, match="each once"):
            cache.attach(*wrong)
    with cache.attach(model) as attached:
        with pytest.raises(InputError, match="attached already"):
            cache.attach(model)
        with pytest.raises(InputError, match="KV cache attached already"):
            new_cache(model).attach(model)
        with pytest.raises(MemkitError, match="outside a chunk"):
            run(model, latents(3))
        fill(model, attached)
        with attached.chunk([3]):
            with pytest.raises(MemkitError, match="nest"), attached.chunk([4]):
                pass
            with pytest.raises(InputError, match="1 positions, the latents 3 frames"):
                run(model, latents(3))
        for read, message in (([5], r"no frame at \[5\]"), ([1, 2], r"would read \[1\]")):
            with pytest.raises(InputError, match=message):
                attached.chunk([1, 4], read=read)
        with attached.chunk([3]), pytest.raises(InputError, match="batch of 2"):
            run(model, latents(1, batch=1))
        with attached.chunk([3]), pytest.raises(InputError, match="4 tokens"):
            run(model, torch.randn(2, 16, 1, 4, 8))
    with pytest.raises(InputError, match="3 layers, the transformers have 6"):
        cache.attach(model, random_transformer(1))
    cache.reset()
    # after a reset any size will do
    with cache.attach(model) as attached, torch.no_grad(), attached.chunk([3], write=True):
        run(model, torch.randn(1, 16, 1, 4, 8))
