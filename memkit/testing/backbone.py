"""`check_backbone`: does the adapter of a video transformer describe what its blocks really compute?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from memkit.backbones.adapters.choice import adapter_of
from memkit.backbones.attached import Attached
from memkit.backbones.base import (
    FRAME_CONTEXT,
    KV_CACHE,
    MEMORY_TOKENS,
    QUERY_LAYERS,
    TEACHER_FORCING,
    VIDEO,
    Carrier,
    Table,
)
from memkit.backbones.protocol import BackboneAdapter, Grid, Model
from memkit.backbones.unwrap import transformers_of
from memkit.errors import MemkitError
from memkit.injectors.self_attention import SelfAttentionConcat
from memkit.testing.measures import apart, unequal
from memkit.testing.memory import check_masked_memory
from memkit.testing.models import call, differences, evaluating, state_of
from memkit.testing.report import Properties, Report

ERROR = 1e-5
"""Largest difference between values that are equal but for rounding, in shares of the largest value."""
NEED_ROTARY = (KV_CACHE, FRAME_CONTEXT, QUERY_LAYERS, TEACHER_FORCING)
"""Kinds of attachment that ask the adapter for the rotary tables of frames at any position."""


def check_backbone(
    model: Any, forward: Callable[[Any], Tensor] | None = None, *, exact: bool = True, seed: int = 0
) -> Report:
    """Check that a video transformer and its `BackboneAdapter` give memory what the protocol promises.

    The model must give the same output for the same inputs, whatever the global random state. Its adapter must describe
    what the model computes: `modulate` turns the input of a block into the input of its self-attention; attention by
    `project`, the rotary tables, `join` and `output` gives what the model's own processor gives; and `rotary_at` gives
    the model's own tables for its own frames, where the adapter has it. `SelfAttentionConcat` must then change the
    output, to no bit where all memory is masked, and leave the model as it was. No property needs gradients.

    Args:
        model: a transformer that has an adapter (`memkit.backbones.adapter_of`), a `WanBackbone` or a pipeline, on the
            CPU. It is as before after the check.
        forward: ``forward(model)`` runs the model on fixed inputs of two samples, with one timestep per sample, and
            returns the output [2, ...]. By default ``model.velocity`` or, for a transformer of Wan's signature, a call
            with random latents.
        exact: whether a sample without memory, beside one with memory, has the model's own output to the bit. False
            allows rounding, for a model whose processor computes its own attention mask in another way.
        seed: determines the inputs and the memory.

    Raises:
        CheckFailed: a property does not hold.
        InputError: the model has no adapter.
    """
    transformer = transformers_of([model], MEMORY_TOKENS)[0]
    adapter = adapter_of(transformer)
    subject = forward or (lambda model: call(model, seed))
    properties = Properties("check_backbone", type(transformer).__name__, seed, examples=4, shrink=False)
    with evaluating(transformer), torch.no_grad():
        _check_model(properties, model, subject)
        _check_adapter(properties, adapter, transformer, lambda: subject(model))
        before = state_of(transformer)
        check_masked_memory(
            properties, SelfAttentionConcat, transformer, lambda _model, _attached: subject(model), exact
        )
        properties.none(
            "detached, the model is as before",
            lambda: differences(before, state_of(transformer)),
            "Register hooks in watch() alone and return all of their handles.",
        )
    return properties.report


def _check_model(properties: Properties, model: Any, forward: Callable[[Any], Tensor]) -> None:
    def unsteady() -> int:
        state, outputs = torch.get_rng_state(), []
        for seed in (1, 2):
            torch.manual_seed(seed)
            outputs.append(forward(model))
        torch.set_rng_state(state)
        return unequal(*outputs)

    def malformed() -> int:
        out = forward(model)
        return int(out.ndim < 3 or len(out) != 2) + int((~out.isfinite()).sum())

    properties.none(
        "equal inputs give equal outputs, to the bit",
        unsteady,
        "The output may not depend on the global random state: draw no noise, and the inputs of forward= from a seed.",
    )
    properties.none(
        "a finite output for two samples", malformed, "forward(model) must return a tensor [2, ...] without NaN."
    )


def _check_adapter(
    properties: Properties, adapter: BackboneAdapter, model: Model, forward: Callable[[], Tensor]
) -> None:
    plain, blocks, probed = forward(), adapter.blocks(model), []
    sizes, seen, layers = adapter.sizes(model), _Probe(), range(len(blocks))

    def unreached() -> int:
        with _AttachedProbe(seen, [model]):
            probed.append(forward())
        tokens = [sum(hidden.shape[1] for hidden, _ in seen.spans.get(i, [])) for i in layers]
        return sum(i not in seen.inputs or tokens[i] != seen.inputs[i].shape[1] for i in layers)

    def wrong_sizes() -> int:
        width = {hidden.shape[-1] for spans in seen.spans.values() for hidden, _ in spans}
        return int(sizes.layers != len(blocks)) + int(width != {sizes.width}) + int(min(sizes.patch_size) < 1)

    def modulation(layer: int) -> float:
        """Of the last token of each group, whose modulation memory gets where tokens have different ones."""
        error, start = 0.0, 0
        for hidden, temb in seen.spans[layer]:
            own = seen.inputs[layer][:, start : start + hidden.shape[1]]
            modulated = adapter.modulate(blocks[layer], own, temb)
            error = max(error, apart(modulated[:, -1].float(), hidden[:, -1].float()))
            start += hidden.shape[1]
        return error

    def projections(layer: int) -> float:
        attn, hidden = adapter.attention(blocks[layer]), seen.spans[layer][0][0]
        (_, *kv), others = adapter.project(attn, hidden), adapter.project_kv(attn, hidden)
        return max(apart(a, b) for a, b in zip(others, kv, strict=True))

    def rotary() -> int:
        assert seen.grid is not None
        tables = adapter.rotary_at(model, range(seen.grid.frames), seen.grid)
        pairs = (torch.broadcast_tensors(a, b) for a, b in zip(tables, seen.rotary, strict=True))
        return sum(unequal(a, b) for a, b in pairs)

    properties.none(
        "every block is reached, with all of its tokens",
        unreached,
        "blocks() must have all blocks, and watch() pass what begin() returns to each of them, in its rotary argument.",
    )
    properties.none(
        "sizes are those of the blocks", wrong_sizes, "Correct sizes(): layers, heads, head_dim, patch_size."
    )
    properties.at_most(
        "modulate() is what a block does before its self-attention",
        ERROR,
        lambda: max(map(modulation, layers)),
        "Apply the block's first norm, shift and scale, as its forward does with the video tokens.",
    )
    properties.at_most(
        "project_kv() gives the keys and values of project()",
        ERROR,
        lambda: max(map(projections, layers)),
        "Normalise keys in the same way in both; see norms_each_head.",
    )
    properties.at_most(
        "attention by the adapter is the model's own",
        ERROR,
        lambda: apart(probed[0], plain),
        "Compare project(), tables(), join(), attend(), project_out() and output() with the model's own processor.",
    )
    if seen.grid is None:
        properties.skip("rotary_at (the call does not tell the grid)")
        return
    try:
        adapter.rotary_at(model, [0], seen.grid)
    except MemkitError:
        properties.none(
            "what needs rotary_at() is unsupported without it",
            lambda: sum(adapter.why_not(model, kind) is None for kind in NEED_ROTARY),
            f"Add rotary_at(), or name {', '.join(NEED_ROTARY)} in unsupported, with the reason.",
        )
        return
    properties.none(
        "rotary_at() gives the model's own tables",
        rotary,
        "Compute the tables as the model does for frames 0, 1, 2, …, bit for bit.",
    )


class _Probe:
    """What the blocks and their self-attention received in the last forward, by layer."""

    def __init__(self) -> None:
        self.inputs: dict[int, Tensor] = {}
        """The video tokens that a block received."""
        self.spans: dict[int, list[tuple[Tensor, Any]]] = {}
        """Of each group of its tokens, usually one: the input of the self-attention, and the modulation."""
        self.grid: Grid | None = None
        self.rotary: tuple[Any, Any] = (None, None)


class _AttachedProbe(Attached):
    """Takes part in every self-attention without adding anything, so that the adapter computes all of it."""

    kind = "a probe"
    owner: _Probe

    def part(self, model: Model, layer: int) -> _Look:
        return _Look(self.owner, layer)

    def rotary(self, model: Model, grid: Grid | None, carrier: Carrier) -> Carrier:
        self.owner.grid, self.owner.rotary = grid, carrier.rotary
        return carrier

    def install(self, model: Model) -> None:
        adapter = adapter_of(model)

        def look(layer: int, _block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            named = {**dict(zip(adapter.block_arguments, args, strict=False)), **kwargs}
            self.owner.inputs[layer], self.owner.spans[layer] = named["hidden_states"].clone(), []

        for layer, block in enumerate(adapter.blocks(model)):
            self.keep(block.register_forward_pre_hook(partial(look, layer), with_kwargs=True))


class _Look:
    """The injection of one layer; what it prepares is not None, so the model's own processor is not used."""

    def __init__(self, seen: _Probe, layer: int) -> None:
        self.seen, self.layer = seen, layer

    def prepare(self, block: nn.Module, hidden: Tensor, temb: Any, carrier: Carrier) -> bool:
        self.seen.spans[self.layer].append((hidden.clone(), temb))
        return True

    def extend(self, table: Table, attn: nn.Module, prepared: bool) -> str:
        return VIDEO

    def finish(self, table: Table, group: str, out: dict[str, Tensor], prepared: bool) -> None:
        return None
