"""An adapter of one's own, for a transformer that memkit does not know, and how adapters are found."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from memkit.backbones import ADAPTERS, BackboneAdapter, Grid, Sizes, adapter_of
from memkit.errors import InputError, MemkitError
from memkit.generation import GuidedMemory
from memkit.injectors import KVCache, SelfAttentionConcat, TeacherForcing
from memkit.memory import Memory
from tests.helpers.tiny_backbones import WAN, attended, seeded, turned

# -- a transformer with diffusers' processors, and its adapter ---------------------------------------------------------


class Processor:
    def __call__(self, attn, x, text=None, mask=None, rotary_emb=None):
        q, k, v = (linear(x).unflatten(-1, (attn.heads, -1)) for linear in (attn.to_q, attn.to_k, attn.to_v))
        y = attended(turned(q.double(), *rotary_emb), turned(k.double(), *rotary_emb), v.double(), None)
        return attn.to_out[1](attn.to_out[0](y.flatten(2).float()))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.processor, self.norm_q, self.norm_k = heads, Processor(), None, None
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width), nn.Identity()])

    def forward(self, x, rotary):
        return self.processor(self, x, rotary_emb=rotary)


class Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(width), Attention(width, 2)

    def forward(self, x, shift, rotary):
        return x + self.attention(self.norm(x) + shift, rotary)


class Angles(nn.Module):
    def forward(self, frames: Tensor, tokens: int):
        angle = frames.double().repeat_interleave(tokens)[:, None] * 10.0 ** -torch.arange(4).double()
        angle = angle.repeat_interleave(2, 1)[None, :, None]
        return angle.cos().float(), angle.sin().float()


class Transformer(nn.Module):
    """Latents [B,16,F,H,W], of which each pixel is a token of width 16."""

    def __init__(self) -> None:
        super().__init__()
        self.angles, self.layers = Angles(), nn.ModuleList(Layer(16) for _ in range(3))

    def forward(self, latents, timestep):
        x, shift = latents.flatten(2).mT, timestep[:, None, None] / 1000
        rotary = self.angles(torch.arange(latents.shape[2]), latents[0, 0, 0].numel())
        for layer in self.layers:
            x = layer(x, shift, rotary)
        return x.mT.unflatten(2, latents.shape[2:])


class Adapter(BackboneAdapter):
    model_class = Transformer
    processors = (Processor,)
    block_arguments = ("x", "shift", "rotary")
    modulation_argument, rotary_argument = "shift", "rotary"
    unsupported = {"teacher forcing": "it takes one timestep per sample"}

    def blocks(self, model: Any) -> tuple[Any, ...]:
        return tuple(model.layers)

    def attention(self, block: Any) -> Any:
        return block.attention

    def sizes(self, model: Any) -> Sizes:
        return Sizes(layers=len(model.layers), heads=2, head_dim=8, channels=16, patch_size=(1, 1, 1))

    def watch(self, model: Any, begin: Any) -> list[Any]:
        def carry(_angles, args, tables):
            return begin(Grid(len(args[0]), height=1, width=args[1]), self.carrier(tables))

        return [model.angles.register_forward_hook(carry)]

    def modulate(self, block: Any, tokens: Tensor, temb: Tensor) -> Tensor:
        return block.norm(tokens) + temb

    def rotary_at(self, model: Any, positions: Any, grid: Grid) -> Any:
        return model.angles.forward(torch.tensor(positions), grid.tokens_per_frame)


class WithTokens:
    """The processor's arithmetic with further keys and values, and without later frames."""

    def __init__(self, layer: Layer, tokens: Tensor | None, allowed: Tensor | None) -> None:
        self.layer, self.tokens, self.allowed = layer, tokens, allowed

    def __call__(self, attn, x, text=None, mask=None, rotary_emb=None):
        q, k, v = (linear(x).unflatten(-1, (2, -1)).double() for linear in (attn.to_q, attn.to_k, attn.to_v))
        q, k = turned(q, *rotary_emb), turned(k, *rotary_emb)
        if self.tokens is not None:
            own = self.layer.norm(self.tokens) + TIMES[:, None, None] / 1000
            more = (linear(own).unflatten(-1, (2, -1)).double() for linear in (attn.to_k, attn.to_v))
            k, v = (torch.cat(pair, 1) for pair in zip((k, v), more, strict=True))
        return attn.to_out[0](attended(q, k, v, self.allowed).flatten(2).float())


LATENTS, TOKENS, TIMES = seeded(2, 16, 4, 2, 3, seed=1), seeded(2, 5, 16, seed=2), torch.tensor([700.0, 150.0])


@pytest.fixture
def model():
    torch.manual_seed(0)
    model: Any = Transformer()
    model.memkit_adapter = Adapter()
    return model


@torch.no_grad()
def test_memory_of_a_transformer_that_memkit_does_not_know(model):
    base = model(LATENTS, TIMES)
    with SelfAttentionConcat(Memory(TOKENS)).attach(torch.nn.DataParallel(model, device_ids=[])):
        got = model(LATENTS, TIMES)
    assert torch.equal(model(LATENTS, TIMES), base)
    for layer in model.layers:
        layer.attention.processor = WithTokens(layer, TOKENS, None)
    want = model(LATENTS, TIMES)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    assert (want - base).abs().max() > 1e-3


@torch.no_grad()
def test_streaming_with_it(model):
    parts = []
    with KVCache(10**6).attach(model) as attached:
        for i in range(4):
            with attached.chunk([i], write=True):
                parts.append(model(LATENTS[:, :, i : i + 1], TIMES))
    frame = torch.arange(24) // 6
    for layer in model.layers:
        layer.attention.processor = WithTokens(layer, None, frame[:, None] >= frame)
    torch.testing.assert_close(torch.cat(parts, 2), model(LATENTS, TIMES), rtol=0, atol=1e-5)


def test_what_it_leaves_out_is_refused(model):
    with pytest.raises(InputError, match="Teacher forcing cannot be attached to a Transformer: it takes one timestep"):
        TeacherForcing().attach(model)
    with pytest.raises(InputError, match="no cache_context"):
        GuidedMemory(SelfAttentionConcat(Memory(TOKENS)), 2.0).attach(model)
    with pytest.raises(MemkitError, match="how Transformer takes"):
        adapter_of(model).timesteps(TIMES, 2, Grid(4, 2, 3))


# -- how adapters are found --------------------------------------------------------------------------------------------


class Cautious(type(ADAPTERS[0])):
    """Wan's adapter, which keeps a kind from a model."""

    unsupported = {"a KV cache": "its owner says so"}


def test_an_adapter_of_ones_own_goes_before_memkits():
    model = WAN.make()
    model.memkit_adapter = Cautious()
    assert type(adapter_of(model)) is Cautious
    with pytest.raises(InputError, match="its owner says so"):
        KVCache(10**7).attach(torch.nn.DataParallel(model, device_ids=[]))
    model.memkit_adapter = "WanAdapter"
    with pytest.raises(InputError, match="of type str.*BackboneAdapter"):
        SelfAttentionConcat(Memory(seeded(1, 5, 48))).attach(model)


def test_a_class_without_an_adapter_is_told_which_have_one():
    with pytest.raises(InputError, match="WanVACETransformer3DModel.*not to Linear.*memkit_adapter"):
        SelfAttentionConcat(Memory(seeded(1, 5, 48))).attach(nn.Linear(2, 2))


def test_by_default_an_adapter_is_for_memory_tokens_alone():
    class Bare(Adapter):
        unsupported = BackboneAdapter.unsupported

    model: Any = Transformer()
    model.memkit_adapter = Bare()
    with SelfAttentionConcat(Memory(TOKENS)).attach(model):
        model(LATENTS, TIMES)
    with pytest.raises(InputError, match="a Transformer: its adapter does not say"):
        KVCache(10**6).attach(model)


KIND_OF_COLUMN = {
    "`SelfAttentionConcat`": "memory tokens",
    "`KVCache`": "a KV cache",
    "`PMRoPE`, `PRoPE`": "camera positions",
    "`TeacherForcing`": "teacher forcing",
    "`QueryLayers`": "query layers",
    "`FrameContext`": "frame context",
    "`StateSpaceMemory`": "recurrent memory",
}


def test_the_page_lists_what_the_adapters_say():
    page = (Path(__file__).parents[2] / "docs" / "backbones.md").read_text()
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in re.findall(r"^\|.*\|$", page, re.M)]
    kinds = [KIND_OF_COLUMN[cell] for cell in rows[0][1:]]
    listed = {row[0].strip("`"): dict(zip(kinds, row[1:], strict=True)) for row in rows[2:]}
    assert set(listed) == {adapter.model_class.__name__ for adapter in ADAPTERS}
    for adapter in ADAPTERS:
        cells = listed[adapter.model_class.__name__]
        assert {kind for kind, cell in cells.items() if cell == "–"} == set(adapter.unsupported)
        if type(adapter).why_not is BackboneAdapter.why_not:  # otherwise a cell may state the condition
            assert set(cells.values()) <= {"yes", "–"}
