"""What a KVCache writes, and when: errors, gradient checkpointing, inference mode."""

import pytest
import torch

from memkit.errors import MemkitError
from tests.injectors.kv_cache.common import fill, latents, new_cache, run, same_slots


def test_only_the_last_forward_of_a_writing_chunk_is_written_and_only_at_its_end(model):
    cache, want = new_cache(model), new_cache(model)
    with cache.attach(model) as attached, torch.no_grad(), attached.chunk([0, 1, 2], write=True):
        run(model, latents(3, seed=7))
        run(model, latents(3))
        assert cache.branch().positions == ()
    with want.attach(model) as attached:
        fill(model, attached)
    assert same_slots(cache.branch(), want.branch())


def test_what_raises_writes_nothing(model):
    cache = new_cache(model)
    with cache.attach(model) as attached:
        with pytest.raises(ZeroDivisionError), torch.no_grad(), attached.chunk([0, 1, 2], write=True):
            run(model, latents(3))
            raise ZeroDivisionError
        with pytest.raises(MemkitError, match="did not run"), attached.chunk([0, 1, 2], write=True):
            pass
        handle = model.blocks[2].register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(MemkitError, match="did not run"), torch.no_grad(), attached.chunk([0, 1, 2], write=True):
            handle.remove()
            run(model, latents(3))
            handle = model.blocks[2].register_forward_pre_hook(lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                run(model, latents(3))  # this one leaves only the first layers
        handle.remove()
        assert cache.branch().positions == ()
        fill(model, attached)  # the cache still works
    assert cache.branch().positions == (0, 1, 2)


def test_gradient_checkpointing_changes_neither_what_is_written_nor_the_gradients(model):
    caches, grads = [], []
    for checkpointing in (False, True):
        if checkpointing:
            model.enable_gradient_checkpointing()
            model.train()
        cache, x = new_cache(model), latents(3, seed=8).requires_grad_()
        with cache.attach(model) as attached:
            fill(model, attached)
            with attached.chunk([3, 4, 5], write=True):
                run(model, x).pow(2).mean().backward()
                assert cache.branch().positions == (0, 1, 2)
        caches.append(cache.branch())
        grads.append(x.grad)
    assert same_slots(*caches) and caches[0].positions == (0, 1, 2, 3, 4, 5)
    assert grads[0].abs().min() > 0
    torch.testing.assert_close(grads[0], grads[1], rtol=0, atol=0)
    assert not any(x.requires_grad for x in caches[0].get(0))


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_block_is_not_run_again_in_another_chunk(model, reentrant):
    def checkpoint(function, *args):
        return torch.utils.checkpoint.checkpoint(function, *args, use_reentrant=reentrant)

    model.enable_gradient_checkpointing(checkpoint)
    model.train()
    cache = new_cache(model)
    with cache.attach(model) as attached:
        fill(model, attached)
        for later in (None, [6, 7, 8]):
            with attached.chunk([3, 4, 5]):
                loss = run(model, latents(3).requires_grad_()).sum()
            if later is None:
                with pytest.raises(MemkitError, match="has ended"):
                    loss.backward()
            else:
                with pytest.raises(MemkitError, match="has ended"), attached.chunk(later):
                    loss.backward()
        with attached.chunk([3, 4, 5]):
            run(model, latents(3).requires_grad_()).sum().backward()


def test_a_cache_first_written_in_inference_mode_can_be_written_outside_of_it(model):
    cache = new_cache(model)
    with cache.attach(model) as attached:
        with torch.inference_mode():
            fill(model, attached)
        fill(model, attached)
        with torch.inference_mode():
            fill(model, attached)
    assert cache.branch().positions == (0, 1, 2)
