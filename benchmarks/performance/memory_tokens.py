"""Memory tokens in the self-attention of one Wan2.1-1.3B block, and what attaching costs."""

from __future__ import annotations

import math
import time

import numpy as np
import torch
from torch import Tensor

from benchmarks.performance.models import wan
from benchmarks.performance.rows import Bench, Row, Variant
from memkit.injectors import SelfAttentionConcat
from memkit.memory import Memory
from memkit.metrics import bootstrap

WIDTH, HEADS, HEAD_DIM = 1536, 12, 128
VIDEO, MEMORY = 2304, 1024
COPIES, CELLS = 100, 10
"""DiT-Mem's 1000 tokens of five clips are 10 cells, each 100 times."""


def rows(bench: Bench) -> list[Row]:
    """Time the attention of a block with memory in several forms, and attachment to 30 blocks."""
    return [*_attention(bench), *_published(bench), _zero_tokens(bench), _attach()]


class _Block:
    """A block of Wan2.1-1.3B without its feed-forward network, and its inputs."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.model = wan(bench, HEADS, HEAD_DIM, layers=1, ffn_dim=16)
        self.x, self.text = self.random(1, VIDEO, WIDTH), self.random(1, 1, WIDTH)
        self.temb, self.rotary = self.random(1, 6, WIDTH), self.tables(VIDEO)

    def random(self, *shape: int) -> Tensor:
        return torch.randn(*shape).to(self.bench.device, self.bench.dtype)

    def tables(self, tokens: int) -> tuple[Tensor, Tensor]:
        angles = torch.rand(1, tokens, 1, HEAD_DIM, device=self.bench.device) * math.tau
        return angles.cos(), angles.sin()

    def plain(self, x: Tensor | None = None) -> Tensor:
        x = self.x if x is None else x
        rotary = self.rotary
        if x.shape[1] > VIDEO:
            none = [f(torch.zeros(1, x.shape[1] - VIDEO, 1, HEAD_DIM)) for f in (torch.cos, torch.sin)]
            rotary = tuple(torch.cat([a, b.to(a)], 1) for a, b in zip(self.rotary, none, strict=True))
        with torch.no_grad():
            return self.model.blocks[0](x, self.text, self.temb, rotary)

    def with_memory(self, memory: Memory) -> Tensor:
        with SelfAttentionConcat(memory).attach(self.model):
            return self.plain()

    def queries_too(self, tokens: Tensor) -> Tensor:
        return self.plain(torch.cat([self.x, tokens], 1))[:, :VIDEO]

    def bare(self, tokens: Tensor) -> Tensor:
        """No more than the keys and values of the tokens, and the attention of the video on them."""
        attn = self.model.blocks[0].attn1
        with torch.no_grad():
            k, v = (x(tokens).unflatten(2, (HEADS, -1)).transpose(1, 2) for x in (attn.to_k, attn.to_v))
            q = self.x.unflatten(2, (HEADS, -1)).transpose(1, 2)
            return torch.nn.functional.scaled_dot_product_attention(q, k, v)


def operations(video: int, memory: int, queries: bool = False) -> float:
    """Of the matrix products of such a block: self- and cross-attention with one text token."""
    rows_ = video + memory if queries else video
    keys = video + memory
    projections = 2 * WIDTH**2 * (2 * rows_ + 2 * keys + 2 * rows_)
    return projections + 4 * rows_ * keys * WIDTH


def _attention(bench: Bench) -> list[Row]:
    block = _Block(bench)
    tokens = block.random(1, MEMORY, WIDTH)
    weights = torch.rand(1, MEMORY, device=bench.device)
    mask = torch.rand(1, MEMORY, device=bench.device) < 0.9
    alone, more = operations(VIDEO, 0), operations(VIDEO, MEMORY)
    times = bench.turns(
        {
            "no memory": Variant(block.plain, alone),
            "keys and values": Variant(lambda: block.with_memory(Memory(tokens)), more),
            "queries too": Variant(lambda: block.queries_too(tokens), operations(VIDEO, MEMORY, queries=True)),
            "bare": Variant(lambda: block.bare(tokens), more - alone),
            "weighted": Variant(lambda: block.with_memory(Memory(tokens, log_weight=weights)), more),
            "masked": Variant(lambda: block.with_memory(Memory(tokens, mask=mask)), more),
        }
    )
    sizes = f"{VIDEO} video and {MEMORY} memory tokens of width {WIDTH}"
    added = _over(times.seconds["keys and values"], times.seconds["no memory"], times.seconds["bare"])
    return [
        times.row(
            f"Memory as keys and values only / as queries too, added time ({sizes})",
            *("keys and values", "queries too", "no memory"),
            target=0.35,
        ),
        Row(
            "Memory as keys and values only, added time / projecting its keys and values and attending to them",
            *added,
            target=1.15,
            limit=1.0,
            limit_from="operations",
            details=times.details(["no memory", "keys and values", "bare"]),
        ),
        times.row("Weighted memory / unweighted", "weighted", "keys and values", target=1.1),
        times.row("Masked memory (a tenth hidden) / unmasked", "masked", "keys and values", target=1.1),
    ]


def _over(a: np.ndarray, base: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    return bootstrap(lambda x, y, z: float((np.median(x) - np.median(y)) / np.median(z)), a, base, b)


def _published(bench: Bench) -> list[Row]:
    """Ten cells with log-weight ln 100 against the thousand tokens of the release, which run as queries too."""
    block = _Block(bench)
    cells = block.random(1, CELLS, WIDTH)
    weight = torch.full((1, CELLS), math.log(COPIES), device=bench.device)
    memory, copies = Memory(cells, log_weight=weight), cells.repeat_interleave(COPIES, 1)
    difference = (block.with_memory(memory) - block.queries_too(copies)).abs().max().item()
    times = bench.turns(
        {
            "no memory": Variant(block.plain, operations(VIDEO, 0)),
            "ten weighted tokens": Variant(lambda: block.with_memory(memory), operations(VIDEO, CELLS)),
            "as published": Variant(lambda: block.queries_too(copies), operations(VIDEO, COPIES * CELLS, queries=True)),
        }
    )
    claim = (
        "DiT-Mem's tokens of five clips as 10 weighted tokens / as published, added time (outputs within "
        f"{difference:.0e})"
    )
    return [times.row(claim, "ten weighted tokens", "as published", "no memory", target=0.03)]


def _zero_tokens(bench: Bench) -> Row:
    block = _Block(bench)
    memory = Memory(block.random(1, 4, WIDTH), mask=torch.zeros(1, 4, dtype=torch.bool, device=bench.device))
    injector = SelfAttentionConcat(memory)

    def attached() -> Tensor:
        with injector.attach(block.model):
            return block.plain()

    times = bench.turns({"no memory": Variant(block.plain), "no visible token": Variant(attached)})
    return times.row("Memory without a visible token / the plain block", "no visible token", "no memory", target=1.01)


def _attach() -> Row:
    """Attach to a model of 30 blocks and detach again, beside which its width does not matter."""
    model = wan(Bench(), heads=1, head_dim=12, layers=30, ffn_dim=8)
    injector = SelfAttentionConcat(Memory(torch.randn(1, 4, 12)))

    def once() -> float:
        began = time.process_time()
        with injector.attach(model):
            pass
        return 1e3 * (time.process_time() - began)

    found = np.array([once() for _ in range(50)])
    return Row("Attach and detach, 30 blocks", *bootstrap(lambda x: float(np.median(x)), found), target=1.0, unit="ms")
