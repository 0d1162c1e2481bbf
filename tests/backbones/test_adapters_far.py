"""AnyFlow-FAR: training with its clean stream, masks that are given, and memory in the cache that it writes."""

from __future__ import annotations

import contextlib

import pytest
import torch

from memkit.errors import MemkitError
from memkit.injectors import SelfAttentionConcat
from memkit.memory import Memory
from tests.helpers.tiny_anyflow import ANYFLOW_FAR, PARTITION, AnyFlowDense, call, modulated
from tests.helpers.tiny_backbones import LATENTS, TEXT, attended, seeded

TOKENS = seeded(2, 5, 48, seed=7)
chunk_of = torch.tensor([0, 1, *[2] * 4, *[3] * 4, *[4] * 4, *[5] * 4])
"""Of each token its chunk: two of larger patches, two noisy ones and the clean ones of the same frames."""


class ByChunk(AnyFlowDense):
    """Queries of a chunk see memory at the timestep of the chunk."""

    def __call__(self, attn, hidden_states, attention_mask=None, rotary_emb=None):
        freqs = rotary_emb["query"].transpose(1, 2)
        q, k, v = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(hidden_states)), attn.to_v(hidden_states)
        q, k, v = (x.unflatten(-1, (2, -1)).double() for x in (q, k, v))
        q, k = (torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * freqs).flatten(-2) for x in (q, k))
        at, parts = torch.arange(len(chunk_of)), []
        allowed = attention_mask.mask_mod(at[0], at[0], at[:, None], at)
        for chunk in range(6):
            of = chunk_of == chunk
            keys, values = k, v
            if self.memory is not None:
                tokens = modulated(self.block, {"temb": self.arguments["temb"][:, of]}, self.memory)
                more = (attn.norm_k(attn.to_k(tokens)), attn.to_v(tokens))
                keys, values = (
                    torch.cat([x, y.unflatten(-1, (2, -1)).double()], 1) for x, y in zip((k, v), more, strict=True)
                )
            parts.append(attended(q[:, of], keys, values, allowed[of]))
        return attn.to_out[0](torch.cat(parts, 1).flatten(2).float())


def forced(model, **more):
    """A forward of training: other timesteps in each frame, and clean copies of the last two."""
    x, t = LATENTS.transpose(1, 2), torch.tensor([[900.0, 700.0, 500.0, 300.0]] * 2)
    clean = {"clean_hidden_states": x[:, 2:] / 2, "clean_timestep": torch.tensor([[0.0, 100.0]] * 2)}
    return model(x, t, t / 2, TEXT, chunk_partition=list(PARTITION), return_dict=False, **clean, **more)[0]


@contextlib.contextmanager
def by_chunk(model, memory):
    undo = contextlib.ExitStack()
    with undo:
        for block in model.blocks:
            undo.callback(setattr, block.attn1, "processor", block.attn1.processor)
            block.attn1.processor = dense = ByChunk(ANYFLOW_FAR, memory, None)
            undo.callback(block.register_forward_pre_hook(dense.hook, with_kwargs=True).remove)
        yield


@torch.no_grad()
def test_training_with_its_clean_stream():
    model = ANYFLOW_FAR.make()
    base = forced(model)
    with by_chunk(model, None):
        torch.testing.assert_close(forced(model), base, rtol=0, atol=1e-5)
    with by_chunk(model, TOKENS):
        want = forced(model)
    with SelfAttentionConcat(Memory(TOKENS)).attach(model):
        torch.testing.assert_close(forced(model), want, rtol=0, atol=1e-5)
    with SelfAttentionConcat(Memory(TOKENS, mask=torch.zeros(2, 5, dtype=torch.bool))).attach(model):
        assert torch.equal(forced(model), base)
    assert (want - base).abs().max() > 1e-3


@torch.no_grad()
def test_a_mask_of_the_models_own_is_followed_and_another_one_refused():
    model, partition = ANYFLOW_FAR.make(), list(PARTITION)
    layout = {"chunk_partition": partition, "height": 4, "width": 4, "device": torch.device("cpu")}
    own = model.build_attention_mask(**layout)
    other = model.build_attention_mask(**layout, has_clean_context=True)
    with SelfAttentionConcat(Memory(TOKENS)).attach(model):
        want = call(model, chunk_partition=partition)
        assert torch.equal(call(model, chunk_partition=partition, attention_mask=own), want)
        with pytest.raises(MemkitError, match="build_attention_mask"):
            call(model, chunk_partition=partition, attention_mask=other)
    with SelfAttentionConcat(Memory(TOKENS)).attach(model), pytest.raises(MemkitError, match="outside its transformer"):
        model.blocks[0](torch.zeros(2, 4, 48), TEXT, torch.zeros(2, 4, 6, 48), {"query": None, "key": None}, None)
