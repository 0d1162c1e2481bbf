"""`ControlBranch`: diffusers' VACE model as a whole, and what it does to a stock Wan."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from diffusers import WanVACETransformer3DModel
from torch import Tensor

from memkit.errors import InputError, MemkitError
from memkit.injectors import ControlBranch, ControlBranchConfig, FrameContext, FrameContextConfig
from memkit.testing import check_injector
from tests.helpers.attachables import ATTACHABLES, call, seeded
from tests.helpers.backbones import BACKBONES
from tests.helpers.random_wan import SMALL, random_pipeline, random_transformer

CONTROL = seeded(2, 5, 3, 4, 4, seed=3)
TEXT, TIMES = seeded(2, 6, SMALL["text_dim"], seed=9), torch.tensor([700.0, 150.0])


def branch_of(model, drawn: bool = True, **config) -> ControlBranch:
    branch = ControlBranch(ControlBranchConfig.of(model, channels=5, **config)).requires_grad_(False)
    for i, parameter in enumerate(branch.parameters() if drawn else ()):
        parameter.data = 0.15 * seeded(*parameter.shape, seed=20 + i)
    return branch


def controlled(branch: ControlBranch, model, control: Tensor = CONTROL, scale: float = 1.0, **given) -> Tensor:
    with branch.attach(model) as attached, attached.chunk(control, scale):
        return call(model, **given)


@torch.no_grad()
@pytest.mark.parametrize("every", [1, 2])
def test_a_stock_wan_with_it_is_diffusers_vace_to_the_bit(every: int) -> None:
    torch.manual_seed(0)
    layers, sizes = list(range(0, 3, every)), dict[str, Any](SMALL)
    vace = WanVACETransformer3DModel(**sizes, vace_layers=layers, vace_in_channels=5).eval()
    model = random_transformer()
    own = {name: x for name, x in vace.state_dict().items() if not name.startswith("vace_")}
    model.load_state_dict(own)
    tensors = {}
    for name, x in vace.state_dict().items():
        if name.startswith("vace_blocks."):
            _, number, rest = name.split(".", 2)
            tensors[f"blocks.{layers[int(number)]}.{rest}"] = x
        elif name.startswith("vace_"):
            tensors[name.removeprefix("vace_")] = x
    branch = branch_of(model, drawn=False, every=every)
    branch.load_state_dict(tensors)
    for scale in (1.0, 0.4):
        scales, latents = torch.full((len(layers),), scale), seeded(2, 16, 3, 4, 4, seed=1)
        want = vace(latents, TIMES, TEXT, None, CONTROL, scales, return_dict=False)[0]
        assert torch.equal(controlled(branch, model, scale=scale), want)
    assert (want - call(model)).abs().max() > 1e-2
    assert torch.equal(controlled(branch, model, scale=0.0), call(model))


@torch.no_grad()
def test_it_begins_as_nothing_with_everything_else_that_is_attached_and_leaves_nothing() -> None:
    model = random_transformer()
    branch, base = branch_of(model, drawn=False).initialise(model), call(model)
    name = "blocks.2.attn1.to_q.weight"
    assert torch.equal(branch.get_parameter(name), model.get_parameter(name))
    assert torch.equal(controlled(branch, model), base)
    for name in ("memory_tokens", "frame_context", "kv_cache", "pm_rope", "state_space"):
        one = ATTACHABLES[name]()
        with one.thing.attach(model) as attached:
            want = one.forward(model, attached)
            with branch.attach(model) as control, control.chunk(CONTROL):
                assert torch.equal(one.forward(model, attached), want), name
    trained = branch_of(model)
    assert (controlled(trained, model) - base).abs().max() > 1e-2
    assert torch.equal(call(model), base)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_it_has_the_properties_of_an_injector() -> None:
    def forward(model, attached) -> Tensor:
        with attached.chunk(CONTROL):
            return call(model)

    model = random_transformer()
    report = check_injector(branch_of(model), model, forward=forward, plain=call)
    assert len(report.properties) == 11


@torch.no_grad()
def test_timesteps_may_be_per_token_and_context_frames_have_no_control() -> None:
    model = random_transformer()
    branch, per_token = branch_of(model), TIMES[:, None].expand(2, 12)
    plain = controlled(branch, model)
    torch.testing.assert_close(controlled(branch, model, timestep=per_token), plain, rtol=0, atol=1e-5)
    context, frames = FrameContext(FrameContextConfig.of(model)), seeded(2, 16, 2, 4, 4, seed=2)

    def beside() -> Tensor:
        with context.attach(model) as attached, attached.chunk(frames):
            return controlled(branch, model)

    with_bias = beside()
    branch.get_parameter("patch_embedding.bias").zero_()
    without_bias = beside()
    # all in one sequence: frames of context at timestep 0, whose embedded control is 0
    both, times = torch.cat([frames, seeded(2, 16, 3, 4, 4, seed=1)], 2), torch.cat([torch.zeros(2, 8), per_token], 1)
    control = torch.cat([torch.zeros(2, 5, 2, 4, 4), CONTROL], 2)
    with context.attach(model) as attached, attached.chunk(None, positions=[-2, -1, 0, 1, 2]):
        in_one = controlled(branch, model, control, x=both, timestep=times)[:, :, 2:]
    torch.testing.assert_close(without_bias, in_one, rtol=0, atol=1e-5)
    assert (without_bias - with_bias).abs().max() > 1e-3


def test_at_first_only_the_hints_are_trained_and_then_all_of_it(tmp_path) -> None:
    model = random_transformer().requires_grad_(False)
    for drawn in (False, True):
        branch = branch_of(model, drawn).requires_grad_()
        with branch.attach(model) as attached, attached.chunk(CONTROL):
            call(model).square().mean().backward()
        without = {name for name, p in branch.named_parameters() if p.grad is None or not p.grad.any()}
        inner = {name for name, _ in branch.named_parameters() if "proj_out" not in name}
        assert without == (set() if drawn else inner)
    branch.save_pretrained(tmp_path)
    loaded = ControlBranch.from_pretrained(tmp_path)
    assert torch.equal(controlled(loaded, model), controlled(branch, model))


def test_two_passes_of_a_chunk_have_control_tokens_of_their_own_also_when_blocks_run_again() -> None:
    gradients = []
    for checkpointing in (False, True):
        model = random_transformer().train().requires_grad_(False)
        if checkpointing:
            model.enable_gradient_checkpointing()
        branch = branch_of(model).requires_grad_()
        with branch.attach(model) as attached, attached.chunk(CONTROL):
            outs = [call(model, seeded(2, 16, 3, 4, 4, seed=i).requires_grad_()) for i in range(2)]
            (outs[0] * outs[1]).mean().backward()
        gradients.append(branch.get_parameter("blocks.2.proj_out.weight").grad)
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-7)


@torch.no_grad()
def test_one_control_is_for_all_samples_and_experts() -> None:
    pipe = random_pipeline(boundary_ratio=0.7)
    branch = branch_of(pipe.transformer)
    with branch.attach(pipe) as attached, attached.chunk(CONTROL[:1]):
        outs = [call(each) for each in (pipe.transformer, pipe.transformer_2)]
    both = CONTROL[:1].repeat_interleave(2, 0)
    for out, each in zip(outs, (pipe.transformer, pipe.transformer_2), strict=True):
        torch.testing.assert_close(out, controlled(branch, each, both), rtol=0, atol=1e-6)


def test_what_does_not_go_together_is_refused() -> None:
    model = random_transformer()
    branch = branch_of(model)
    with branch.attach(model) as attached:
        for bad, said in ((CONTROL[:, :4], "give 5 channels"), (CONTROL * torch.nan, "NaN"), (CONTROL[0], "give")):
            with pytest.raises(InputError, match=said):
                attached.chunk(bad)
        for bad in (CONTROL[:, :, :2], CONTROL[..., :2], CONTROL.repeat(2, 1, 1, 1, 1)):
            with pytest.raises(InputError, match="of their size|one for all samples or one per sample"):
                controlled_by(attached, model, bad)
        with pytest.raises(MemkitError, match="outside a chunk"):
            call(model)
        for name in ("teacher_forcing", "query_layers"):
            one = ATTACHABLES[name]()
            frames = 6 if name == "teacher_forcing" else 3
            told = pytest.raises(InputError, match="detach query layers and teacher forcing|of their size")
            with one.thing.attach(model) as other, attached.chunk(seeded(2, 5, frames, 4, 4)), told:
                one.forward(model, other)
        with pytest.raises(InputError, match="already"):
            branch_of(model).attach(model)
    for name in ("ltx", "skyreels_v2", "wan_animate", "hunyuan"):
        with pytest.raises(InputError, match="cannot be attached|blocks of Wan"):
            branch.attach(BACKBONES[name].make())
    with pytest.raises(InputError, match="create one of its sizes"):
        branch.attach(random_transformer(num_layers=4))
    model.train().enable_gradient_checkpointing(partial(torch.utils.checkpoint.checkpoint, use_reentrant=True))
    with branch.attach(model) as attached, attached.chunk(CONTROL), pytest.raises(MemkitError, match="use_reentrant"):
        call(model, seeded(2, 16, 3, 4, 4).requires_grad_())


def controlled_by(attached, model, control: Tensor) -> None:
    with attached.chunk(control):
        call(model)
