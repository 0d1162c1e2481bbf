"""PM-RoPE and PRoPE attached to a model: before training, in training, detached, and in wrong use."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch

from memkit.cameras import CameraPath
from memkit.errors import InputError, MemkitError
from memkit.positions import PMRoPE, PMRoPEConfig, PRoPE
from tests.helpers.differ import differ
from tests.helpers.random_wan import random_transformer
from tests.positions.common import DIM, HEADS, SIZES, assert_untouched, cameras, latents, random_pm_rope, run


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mode", ["off", "phase", "full"])
def test_at_the_start_it_is_the_backbone_to_the_bit(mode, dtype):
    model, x = random_transformer().to(dtype), latents(3).to(dtype)
    pm = PMRoPE(PMRoPEConfig.of(model, mode))
    with torch.no_grad(), pm.attach(model) as posed, posed.chunk(CameraPath.of(cameras(3))):
        out = run(model, x)
        assert torch.equal(out, run(random_transformer().to(dtype), x)) and out.isfinite().all()


def test_detached_it_leaves_nothing_behind(model):
    keys, path = list(model.state_dict()), CameraPath.of(cameras(3))
    with torch.no_grad():
        base = run(model, latents(3))
        for positions in (random_pm_rope(), PRoPE()):
            with positions.attach(model) as posed, posed.chunk(path):
                assert differ(run(model, latents(3)), base, atol=1e-3)
                assert list(model.state_dict()) == keys
            assert torch.equal(run(model, latents(3)), base)
            assert_untouched(model)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_of_training_moves_every_parameter_and_the_output(model, checkpointing):
    pm, path = PMRoPE(PMRoPEConfig(*SIZES)), CameraPath.of(cameras(3, dtype=torch.float32))
    model.requires_grad_(False)
    if checkpointing:
        model.train().enable_gradient_checkpointing()
    optimizer = torch.optim.SGD(pm.parameters(), lr=1.0)
    with pm.attach(model) as posed, posed.chunk(path):
        before = run(model, latents(3))
        before.pow(2).mean().backward()
        optimizer.step()
        assert all(parameter.abs().max() > 0 for parameter in pm.parameters())
        assert (run(model, latents(3)) - before).abs().max() > 1e-4


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_block_that_is_run_again_has_its_own_cameras_whatever_chunk_is_open(model, reentrant):
    def gradients(pm, later, checkpointing):
        other = random_transformer().train()
        other.load_state_dict(model.state_dict())
        if checkpointing:
            other.enable_gradient_checkpointing(partial(torch.utils.checkpoint.checkpoint, use_reentrant=reentrant))
        x = latents(3).requires_grad_()
        pm.zero_grad()
        with pm.attach(other) as posed:
            with posed.chunk(CameraPath.of(cameras(3, dtype=torch.float32))):
                loss = run(other, x).sum()
            with nullcontext() if later is None else posed.chunk(later):
                loss.backward()
        return [x.grad, *(parameter.grad.clone() for parameter in pm.parameters())]

    pm, later = random_pm_rope(), CameraPath.of(cameras(3, seed=30, dtype=torch.float32))
    want = gradients(pm, None, checkpointing=False)
    for chunk in (None, later):
        for a, b in zip(want, gradients(pm, chunk, checkpointing=True), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_wrong_use_is_named_and_leaves_the_model_alone(model):
    pm, path = random_pm_rope(), CameraPath.of(cameras(3))
    with pytest.raises(InputError, match="each once"):
        pm.attach()
    with pytest.raises(InputError, match="each once"):
        PRoPE().attach(model, model)
    with pytest.raises(InputError, match="layers=2"):
        PMRoPE(PMRoPEConfig(2, HEADS, DIM)).attach(model)
    with pytest.raises(InputError, match="blocks of 8"):
        PRoPE().attach(random_transformer(attention_head_dim=12))
    with pytest.raises(InputError, match="blocks of 4"):
        PMRoPEConfig(head_dim=6)
    with pytest.raises(InputError, match="mode is 'both'"):
        PMRoPEConfig(mode="both")
    with torch.no_grad(), pm.attach(model) as posed:
        with pytest.raises(InputError, match="attached already; detach that"):
            PRoPE().attach(random_transformer(1), model)
        with pytest.raises(MemkitError, match="camera positions ran outside a chunk"):
            run(model, latents(3))
        with posed.chunk(path):
            with pytest.raises(InputError, match="cameras of 3 frames, the latents have 6"):
                run(model, latents(6))
            with pytest.raises(InputError, match="of 2 clips"):
                run(model, latents(3, batch=1))
    assert_untouched(model)
