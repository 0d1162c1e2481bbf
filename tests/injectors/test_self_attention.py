"""SelfAttentionConcat against an independent block, and what it promises about the model it is attached to."""

import math
from functools import partial

import pytest
import torch

from memkit.backbones.adapters.wan import WAN
from memkit.encoders import MemoryGate
from memkit.errors import InputError, MemkitError
from memkit.injectors import AttentionRecorder, SelfAttentionConcat
from memkit.memory import Memory
from tests.helpers.differ import differ
from tests.helpers.random_wan import SMALL, random_pipeline, random_transformer

WIDTH = 48


@pytest.fixture
def model():
    return random_transformer()


def inputs(batch=2, frames=3, per_token=False):
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(batch, 16, frames, 4, 4, generator=generator)
    timestep = torch.tensor([700.0, 150.0])[:batch]
    if per_token:
        timestep = timestep[:, None].expand(-1, frames * 4).clone()
        timestep[:, :4] = 0.0  # the first frame is a conditioning frame
    text = torch.randn(batch, 6, SMALL["text_dim"], generator=generator)
    return latents, timestep, text


def run(model, *args):
    with torch.no_grad():
        return model(*(args or inputs()), return_dict=False)[0]


def memory(batch=2, tokens=7, seed=2, **more):
    return Memory(torch.randn(batch, tokens, WIDTH, generator=torch.Generator().manual_seed(seed)), **more)


def released_block(block, x, text, temb, rotary, mem):
    """The block of the DiT-Mem release: memory tokens run as part of the sequence, and their outputs are dropped."""
    attn, n = block.attn1, x.shape[1]
    shift, scale, gate, c_shift, c_scale, c_gate = (block.scale_shift_table + temb).chunk(6, dim=1)

    def layer_norm(y):
        return (y - y.mean(-1, keepdim=True)) / (y.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()

    def rms(y, weight):
        return y / (y.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weight

    def rope(y):
        cos, sin = rotary[0][..., ::2], rotary[1][..., ::2]
        pairs = torch.view_as_complex(y.unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * torch.complex(cos, sin)).flatten(-2)

    y = layer_norm(torch.cat([x, mem], 1)) * (1 + scale) + shift
    q, k, v = (lin(y) for lin in (attn.to_q, attn.to_k, attn.to_v))
    q, k, v = (z.unflatten(-1, (attn.heads, -1)) for z in (rms(q, attn.norm_q.weight), rms(k, attn.norm_k.weight), v))
    q, k = (torch.cat([rope(z[:, :n]), z[:, n:]], 1) for z in (q, k))
    weights = torch.softmax(torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[-1]), -1)
    out = attn.to_out[0](torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2))[:, :n]
    x = x + out * gate
    x = x + block.attn2(block.norm2(x), text, None, None)
    return x + block.ffn(layer_norm(x) * (1 + c_scale) + c_shift) * c_gate


def test_equals_the_released_arithmetic(model):
    mem, seen = memory(), []
    handles = [b.register_forward_hook(lambda b, a, out: seen.append((b, a, out))) for b in model.blocks]
    with SelfAttentionConcat(mem).attach(model):
        run(model)
    for handle in handles:
        handle.remove()
    assert len(seen) == len(model.blocks)
    for block, args, out in seen:  # each block on the inputs that it had; the hook changes only the rotary embedding
        hidden, text, temb, carried = args
        with torch.no_grad():
            want = released_block(block, hidden, text, temb, carried.rotary, mem.tokens)
        torch.testing.assert_close(out, want, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("per_token", [False, True])
def test_no_real_memory_and_detaching_are_bit_identical(model, per_token):
    args = inputs(per_token=per_token)
    base = run(model, *args)
    hidden = Memory(torch.full((2, 7, WIDTH), torch.nan), mask=torch.zeros(2, 7, dtype=torch.bool))
    for nothing in (memory(tokens=0), hidden, memory(log_weight=torch.full((2, 7), -torch.inf))):
        with SelfAttentionConcat(nothing).attach(model):
            assert torch.equal(run(model, *args), base)
    with SelfAttentionConcat(memory()).attach(model):
        assert differ(run(model, *args), base)
    assert torch.equal(run(model, *args), base)
    assert type(model.blocks[0].attn1.processor).__name__ == "WanAttnProcessor"
    assert not model.blocks[0]._forward_pre_hooks


def test_a_sample_without_memory_keeps_its_own_output_to_the_bit(model):
    base = run(model)
    mask = torch.tensor([[True] * 7, [False] * 7])
    with SelfAttentionConcat(memory(mask=mask)).attach(model):
        out = run(model)
    assert torch.equal(out[1], base[1]) and differ(out[0], base[0])


def test_masked_tokens_are_as_if_absent_whatever_they_hold(model):
    mem = memory()
    mask = torch.tensor([[True, False, True, True, False, True, True], [True] * 3 + [False] * 4])
    poisoned = Memory(mem.tokens.masked_fill(~mask[..., None], torch.nan), mask=mask)
    with SelfAttentionConcat(poisoned).attach(model):
        out = run(model)
    latents, timestep, text = inputs()
    for i in range(2):
        with SelfAttentionConcat(Memory(mem.tokens[i : i + 1, mask[i]])).attach(model):
            alone = run(model, latents[i : i + 1], timestep[i : i + 1], text[i : i + 1])
        torch.testing.assert_close(out[i : i + 1], alone, rtol=1e-4, atol=1e-5)


def test_order_of_tokens_and_copies(model):
    mem = memory(batch=1, tokens=4)
    with SelfAttentionConcat(mem).attach(model):
        out = run(model)
    with SelfAttentionConcat(Memory(mem.tokens.flip(1))).attach(model):
        torch.testing.assert_close(run(model), out, rtol=1e-4, atol=1e-5)
    with SelfAttentionConcat(Memory(mem.tokens.repeat(1, 9, 1))).attach(model):
        copies = run(model)
    with SelfAttentionConcat(Memory(mem.tokens, log_weight=torch.full((1, 4), math.log(9)))).attach(model):
        torch.testing.assert_close(run(model), copies, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("first_leaves_first", [True, False])
def test_two_injectors_are_one_with_both_memories(model, first_leaves_first):
    a, b = memory(seed=3), memory(seed=4, tokens=5)
    base = run(model)
    with SelfAttentionConcat(Memory.cat([a, b])).attach(model):
        together = run(model)
    one, two = SelfAttentionConcat(a).attach(model), SelfAttentionConcat(b).attach(model)
    torch.testing.assert_close(run(model), together, rtol=1e-4, atol=1e-5)
    left, right = (one, two) if first_leaves_first else (two, one)
    left.detach()
    with SelfAttentionConcat(b if first_leaves_first else a).attach(random_transformer()) as _:
        pass  # attaching to another model changes nothing here
    assert differ(run(model), base)
    right.detach()
    assert torch.equal(run(model), base)


def test_the_gate_starts_shut_and_learns(model):
    gate = MemoryGate(3, 2)
    base = run(model)
    with SelfAttentionConcat(memory(gate=gate())).attach(model):
        assert torch.equal(run(model), base)
        model(*inputs(), return_dict=False)[0].sum().backward()
        assert (gate.weight.grad != 0).all()
    with torch.no_grad():
        gate.weight.fill_(0.5)
    with SelfAttentionConcat(memory(gate=gate())).attach(model):
        assert differ(run(model), base)
    assert not any("gate" in name for name in model.state_dict())


def test_reentrant_checkpointing_of_memory_that_learns_is_refused(model):
    model.train().enable_gradient_checkpointing(partial(torch.utils.checkpoint.checkpoint, use_reentrant=True))
    learns = Memory(memory().tokens.requires_grad_())
    latents, *rest = inputs()
    with SelfAttentionConcat(learns).attach(model), pytest.raises(MemkitError, match="use_reentrant=False"):
        model(latents.requires_grad_(), *rest)
    with SelfAttentionConcat(memory()).attach(model):  # frozen memory needs no gradient
        model(latents, *rest, return_dict=False)[0].sum().backward()


def test_gradients_reach_memory_only_and_checkpointing_changes_nothing(model):
    model.requires_grad_(False)
    grads = []
    for checkpointing in (False, True):
        tokens = memory().tokens.requires_grad_()
        if checkpointing:
            model.enable_gradient_checkpointing()
            model.train()
        encoded = torch.tanh(tokens)  # a graph behind the memory, which a second backward must not need
        with SelfAttentionConcat(Memory(encoded)).attach(model):
            model(*inputs(), return_dict=False)[0].pow(2).mean().backward()
        grads.append(tokens.grad)
    assert grads[0].abs().min() > 0
    torch.testing.assert_close(grads[0], grads[1])
    assert all(p.grad is None for p in model.parameters())


def test_state_dict_does_not_change_while_attached(model):
    before = list(model.state_dict())
    with SelfAttentionConcat(memory()).attach(model):
        assert list(model.state_dict()) == before


def test_fused_projections_give_the_same(model):
    with SelfAttentionConcat(memory()).attach(model):
        want = run(model)
        for block in model.blocks:
            block.attn1.fuse_projections()
        torch.testing.assert_close(run(model), want, rtol=1e-4, atol=1e-5)


def test_the_attention_backend_of_the_model_is_used_and_kept(model):
    base = run(model)
    with SelfAttentionConcat(memory()).attach(model):
        want = run(model)
        model.blocks[0].attn1.processor._attention_backend = "native"
        torch.testing.assert_close(run(model), want)
    assert model.blocks[0].attn1.processor._attention_backend == "native"
    assert torch.equal(run(model), base)


def test_bfloat16_model_and_fp32_memory():
    model = random_transformer().to(torch.bfloat16)
    latents, timestep, text = inputs()
    args = (latents.bfloat16(), timestep, text.bfloat16())
    with SelfAttentionConcat(memory(log_weight=torch.zeros(2, 7))).attach(model):
        out = run(model, *args)
    assert out.dtype == torch.bfloat16 and out.isfinite().all()
    reference = random_transformer()
    with SelfAttentionConcat(memory()).attach(reference):
        want = run(reference)
    assert (out.float() - want).norm() / want.norm() < 0.05


def test_the_recorder_sees_every_layer_and_call(model):
    recorder = AttentionRecorder()
    assert recorder.shares().shape == (0, 0, 0)
    heavy = Memory(memory().tokens, log_weight=torch.full((2, 7), 50.0))
    with SelfAttentionConcat(memory(), recorder=recorder).attach(model):
        run(model)
        run(model)
    with SelfAttentionConcat(heavy, recorder=recorder).attach(model):
        run(model)
    shares = recorder.shares().mean(-1)
    assert shares.shape == (3, 3)
    assert ((shares[:2] > 0.05) & (shares[:2] < 0.95)).all()
    torch.testing.assert_close(shares[2], torch.ones(3))


def test_the_recorder_of_a_gated_memory_sees_what_it_adds(model):
    gate = MemoryGate(3, 2)
    recorder = AttentionRecorder()
    with SelfAttentionConcat(memory(gate=gate()), recorder).attach(model):
        run(model)
    with torch.no_grad():
        gate.weight[1] = 20.0
    with SelfAttentionConcat(memory(gate=gate()), recorder).attach(model):
        run(model)
    shut, opened = recorder.shares().mean(-1)
    assert (shut == 0).all()
    assert opened[1] > 0.1 and (opened[[0, 2]] == 0).all()


@pytest.mark.parametrize(("boundary", "expand"), [(None, False), (None, True), (0.8, False)])
def test_inside_the_stock_pipeline_with_guidance(boundary, expand):
    pipe = random_pipeline(boundary_ratio=boundary, expand_timesteps=expand)
    pipe.set_progress_bar_config(disable=True)
    experts = [t for t in (pipe.transformer, pipe.transformer_2) if t is not None]

    def generate():
        generator = torch.Generator().manual_seed(0)
        arguments = {"height": 32, "width": 32, "num_frames": 9, "num_inference_steps": 4, "guidance_scale": 3.0}
        return pipe("a red ball", generator=generator, output_type="latent", **arguments).frames

    base = generate()
    recorders = [AttentionRecorder() for _ in experts]
    attached = [
        SelfAttentionConcat(memory(batch=1), recorder=m).attach(t) for m, t in zip(recorders, experts, strict=True)
    ]
    with_memory = generate()
    for attachment in attached:
        attachment.detach()
    assert differ(with_memory, base)
    assert torch.equal(generate(), base)
    calls = [len(m.shares()) for m in recorders]
    assert sum(calls) == 8 and min(calls) > 0  # 4 steps, two calls each; both experts of two are used
    with SelfAttentionConcat(memory(batch=1)).attach(*experts):
        assert torch.equal(generate(), with_memory)


def test_with_per_token_timesteps_memory_takes_those_of_the_last_token(model):
    latents, timestep, text = inputs()
    uniform = timestep[:, None].expand(-1, 12)
    with SelfAttentionConcat(memory()).attach(model):
        torch.testing.assert_close(run(model, latents, uniform, text), run(model), rtol=1e-4, atol=1e-5)

    tokens, temb = torch.randn(2, 7, WIDTH), torch.randn(2, 12, 6, WIDTH)
    block = model.blocks[0]
    assert torch.equal(WAN.modulate(block, tokens, temb), WAN.modulate(block, tokens, temb[:, -1]))


def test_wrong_use_is_named_and_leaves_the_model_alone(model):
    base = run(model)
    with pytest.raises(InputError, match="width 8"):
        SelfAttentionConcat(Memory(torch.randn(1, 3, 8))).attach(model)
    with pytest.raises(InputError, match="needs transformers"):
        SelfAttentionConcat(memory()).attach()
    with pytest.raises(InputError, match="Linear"):
        SelfAttentionConcat(memory()).attach(model, torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match="gate"):
        SelfAttentionConcat(memory(gate=torch.zeros(2, 2))).attach(model)
    with SelfAttentionConcat(memory(batch=3)).attach(model), pytest.raises(InputError, match="batch of 3"):
        run(model)
    with SelfAttentionConcat(memory()).attach(model), pytest.raises(MemkitError, match="hooks"):
        block = model.blocks[0]
        block.attn1(torch.randn(2, 12, WIDTH), None, None, None)
    assert torch.equal(run(model), base)

    class Custom(type(model.blocks[0].attn1.processor)):
        pass

    model.blocks[1].attn1.set_processor(Custom())
    with pytest.raises(InputError, match="Custom"):
        SelfAttentionConcat(memory()).attach(model)
