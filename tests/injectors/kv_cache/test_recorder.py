"""AttentionRecorder against a dense softmax, and what its shares say about a recovery."""

import pytest
import torch

from memkit.backbones.adapters.wan import WAN
from memkit.backbones.rotary import rotary_at, rotate
from memkit.errors import InputError
from memkit.injectors import AttentionRecorder, KVCache, SelfAttentionConcat, frame_bytes, recovery_attention
from memkit.memory import Memory
from tests.helpers.random_wan import SMALL, random_transformer

TOKENS = 4  # per latent frame of 4×4
READ, OWN = (6, 0, 7, 3), (20, 21, 22)


def seeded(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def run(model, x):
    with torch.no_grad():
        text = seeded(len(x), 6, SMALL["text_dim"], seed=9)
        return model(x, torch.tensor([700.0, 150.0])[: len(x)], text, return_dict=False)[0]


@pytest.fixture
def model():
    model = random_transformer()
    for block in model.blocks:
        block.attn1.norm_q.weight.data *= 3  # otherwise attention is nearly even
    return model


def filled(model, batch=2):
    cache = KVCache(40 * frame_bytes(model, 4, 4, batch))
    with cache.attach(model) as attached, attached.chunk(range(8), write=True):
        run(model, seeded(batch, 16, 8, 4, 4, seed=1))
    return cache


def dense(model, cache, x, memory=None):
    """Shares [layers, B, frames, read] from all logits in float64, and the output of the run."""
    inputs, shares = {}, []
    hooks = [
        block.register_forward_pre_hook(lambda _b, args, i=i: inputs.update({i: args[:3]}))
        for i, block in enumerate(model.blocks)
    ]
    with cache.attach(model) as attached, attached.chunk(OWN, read=READ):
        out = run(model, x)
    for hook in hooks:
        hook.remove()
    tables = rotary_at(model.rope, OWN, 2, 2)
    for i, block in enumerate(model.blocks):
        hidden, _, temb = inputs[i]
        shift, scale = (block.scale_shift_table + temb).chunk(6, 1)[:2]
        normed = block.norm1(hidden) * (1 + scale) + shift
        q = rotate(block.attn1.norm_q(block.attn1.to_q(normed)).unflatten(2, (2, -1)), *tables).double()
        own = rotate(WAN.project_kv(block.attn1, normed)[0], *tables)
        keys = [cache.branch().get(i, READ)[0], own]
        if memory is not None:
            keys.append(WAN.project_kv(block.attn1, WAN.modulate(block, memory.tokens.expand(len(x), -1, -1), temb))[0])
        logits = torch.einsum("bqhd,bkhd->bhqk", q, torch.cat(keys, 1).double()) / q.shape[-1] ** 0.5
        if memory is not None:
            logits[..., -memory.tokens.shape[1] :] += memory.log_weight.double()
        share = logits.softmax(-1)[..., : TOKENS * len(READ)]
        share = share.unflatten(-1, (len(READ), TOKENS)).sum(-1).unflatten(2, (len(OWN), TOKENS)).mean((1, 3))
        shares.append(share.detach().float())
    return torch.stack(shares), out


@pytest.mark.parametrize("remembers", [False, True])
def test_shares_are_those_of_a_dense_softmax_and_change_nothing(model, remembers):
    memory = Memory(seeded(1, 3, 48, seed=4), log_weight=torch.full((1, 3), 1.5)) if remembers else None
    cache, x, recorder = filled(model), seeded(2, 16, 3, 4, 4, seed=2), AttentionRecorder()
    if memory is None:
        want, base = dense(model, cache, x)
        with cache.attach(model) as attached, attached.chunk(OWN, read=READ, recorder=recorder):
            outs = [run(model, x), run(model, x + 1)]
    else:
        with SelfAttentionConcat(memory).attach(model):
            want, base = dense(model, cache, x, memory)
        late = SelfAttentionConcat(memory)  # attached after the cache, and counted
        with cache.attach(model) as attached, late.attach(model), attached.chunk(OWN, read=READ, recorder=recorder):
            outs = [run(model, x), run(model, x + 1)]
    got = recorder.shares()
    assert got.shape == (2, 3, 2, 3, 4) and (recorder.frames, recorder.seen) == (OWN, READ)
    torch.testing.assert_close(outs[0], base, rtol=0, atol=1e-5 if remembers else 0)  # the order rounds differently
    torch.testing.assert_close(got[0], want, rtol=0, atol=1e-6)
    assert (got[0] - got[1]).abs().max() > 1e-3 and want.std() > 1e-2


def test_checkpointing_gives_the_same_and_an_error_leaves_no_row(model):
    cache, x, recorders = filled(model), seeded(2, 16, 3, 4, 4, seed=2), [AttentionRecorder(), AttentionRecorder()]
    text, t = seeded(2, 6, SMALL["text_dim"], seed=9), torch.tensor([700.0, 150.0])
    for recorder in recorders:
        with cache.attach(model) as attached, attached.chunk(OWN, read=READ, recorder=recorder):
            model(x.requires_grad_(), t, text, return_dict=False)[0].sum().backward()
        model.train().enable_gradient_checkpointing()
    assert torch.equal(recorders[0].shares(), recorders[1].shares())
    handle = model.blocks[2].register_forward_pre_hook(lambda *_: 1 / 0)
    with (
        cache.attach(model) as attached,
        attached.chunk(OWN, read=READ, recorder=recorders[0]),
        pytest.raises(ZeroDivisionError),
    ):
        run(model, x)
    handle.remove()
    assert len(recorders[0].shares()) == 1


def test_a_chunk_without_history_has_shares_of_nothing_and_a_recorder_is_for_one_chunk(model):
    cache, x, recorder = filled(model), seeded(2, 16, 3, 4, 4, seed=2), AttentionRecorder()
    assert recorder.shares().numel() == 0 and recorder.frames == recorder.seen == ()
    with cache.attach(model) as attached:
        with attached.chunk(OWN, read=[], recorder=recorder):
            run(model, x)
        assert recorder.shares().shape == (1, 3, 2, 3, 0)
        with pytest.raises(InputError, match="one chunk"), attached.chunk([1, 2, 30], recorder=recorder):
            run(model, x)
        one = AttentionRecorder()
        with attached.chunk(OWN, read=READ, recorder=one):
            run(model, x)
    small = filled(model, batch=1)
    with small.attach(model) as attached, attached.chunk(OWN, read=READ, recorder=one):
        run(model, x[:1])
    with pytest.raises(InputError, match="recorder for each"):
        one.shares()


def test_where_a_recovery_looks():
    """Frames 10 and 11, the camera turned at 8: their mirrors are 6 and 5, each ± 1."""
    read = (0, 9, 4, 5, 6, 7, 8)
    shares = torch.tensor([[1.0, 2, 4, 8, 16, 32, 64], [128.0, 256, 512, 1024, 2048, 4096, 8192]])
    got = recovery_attention(shares.expand(3, 2, 7), (10, 11), read, event=6, peak=8.0, newest=2)
    assert got.before.tolist() == [[1 + 4 + 8, 128 + 512 + 1024]] * 3
    assert got.mirror.tolist() == [[8 + 16 + 32, 512 + 1024 + 2048]] * 3
    assert got.newest.tolist() == [[2 + 64, 256 + 8192]] * 3
    between = recovery_attention(shares, (10, 11), read, event=6, peak=7.5, newest=9, reach=0)
    assert between.mirror.tolist() == [8, 512] and torch.equal(between.newest, shares.sum(1))
    with pytest.raises(InputError, match="2, 6"):
        recovery_attention(shares, (10, 11), read[1:], event=6, peak=8.0)


def test_even_attention_is_that_of_a_model_whose_queries_are_nothing(model):
    for block in model.blocks:
        block.attn1.norm_q.weight.data.zero_()
    cache, recorder = filled(model), AttentionRecorder()
    with cache.attach(model) as attached, attached.chunk(OWN, read=READ, recorder=recorder):
        run(model, seeded(2, 16, 3, 4, 4, seed=2))
    torch.testing.assert_close(recorder.shares(), recorder.even().expand(1, 3, 2, 3, 4))
