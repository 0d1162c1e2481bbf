"""`check_encoder`: what injectors and recipes rely on in any encoder of memory clips."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor, nn

from memkit.checks import check_number, shown
from memkit.errors import InputError
from memkit.memory import Memory
from memkit.pretrained import Pretrained
from memkit.testing.measures import apart, largest, normal, unequal
from memkit.testing.models import evaluating
from memkit.testing.report import Properties, Report
from memkit.testing.strategies import Clips, clips

Encoder = Callable[..., Memory]
NOT_FINITE = (math.nan, math.inf)
GRADIENT = 1e-4
"""Smallest gradient that reaches a parameter, if the gradients of the tokens are normal variables."""


def check_encoder(
    encoder: Encoder,
    *,
    inputs: SearchStrategy[Clips] | None = None,
    tolerance: float = 1e-5,
    examples: int = 8,
    seed: int = 0,
    shrink: bool = True,
) -> Report:
    """Check an encoder, such as a `MemoryEncoder`, on clips and masks of many shapes.

    The encoder maps latents [B, N, C, T, H, W] and an optional mask [B, N] to `Memory`. Its tokens must be finite,
    depend on the clips, and be the same in every call; samples of a batch must not influence each other. Masked clips
    are never read, whatever they contain, and give zero tokens with a False mask; the real clips give the tokens that
    they give without the masked ones. Reordering clips reorders tokens. Gradients reach every parameter that needs one,
    and stay finite. Inputs of a wrong shape are refused with a `ValueError`. An encoder that inherits from
    `MemoryEncoder` must also be loaded from a folder as it was saved.

    An `nn.Module` is checked in eval mode; its gradients are checked in training mode.

    Args:
        encoder: the encoder, on the CPU; its weights stay as they are.
        inputs: draws the clips; by default `memkit.testing.clips` of up to 6 × 9 × 9 latent cells, with
            ``encoder.config.latent_channels`` channels, or 16. Narrow it for an encoder that needs larger clips:
            ``clips(sizes=st.just((21, 20, 34)))``.
        tolerance: largest difference between tokens that are equal but for rounding, in shares of the largest value.
        examples: largest number of inputs drawn for each property.
        seed: determines the inputs.
        shrink: look for the smallest input that fails, which takes many more calls.

    Raises:
        CheckFailed: a property does not hold.
        InputError: an encoder that cannot be called, or a number that is out of range.
    """
    if not callable(encoder):
        raise InputError(f"The encoder is {shown(encoder)}; give one.")
    check_number("tolerance", tolerance, 0, 1)
    if inputs is not None and not isinstance(inputs, SearchStrategy):
        raise InputError(f"inputs is {shown(inputs)}; give a strategy, such as memkit.testing.clips().")
    channels = getattr(getattr(encoder, "config", None), "latent_channels", 16)
    drawn = clips(channels) if inputs is None else inputs
    properties = Properties("check_encoder", type(encoder).__name__, seed, examples, shrink)
    with evaluating(encoder):
        with torch.no_grad():
            _check_tokens(properties, encoder, drawn, tolerance)
            _check_masks(properties, encoder, drawn, tolerance)
            _check_order(properties, encoder, drawn, tolerance)
            _check_refusals(properties, encoder, drawn)
        _check_gradients(properties, encoder, drawn)
        if isinstance(encoder, Pretrained):
            _check_saving(properties, encoder, drawn)
        else:
            properties.skip("saving (inherit from memkit.MemoryEncoder)")
    return properties.report


def _check_tokens(properties: Properties, encoder: Encoder, drawn: SearchStrategy[Clips], tolerance: float) -> None:
    def malformed(x: Clips) -> int:
        memory = encoder(x.latents)
        shaped = memory.tokens.ndim == 3 and memory.tokens.shape[0] == len(x.latents) and memory.tokens.shape[1] > 0
        return int(not shaped) + int((~memory.tokens.isfinite()).sum())

    def blind(x: Clips) -> float:
        return apart(encoder(x.latents).tokens, encoder(x.latents.flip(0, 1, 3) + 0.5 * x.latents.cos()).tokens)

    def unsteady(x: Clips) -> int:
        first, state = encoder(x.latents).tokens, torch.get_rng_state()
        torch.manual_seed(1)
        again = encoder(x.latents.clone()).tokens
        torch.set_rng_state(state)
        return unequal(first, again)

    def mixed(x: Clips) -> float:
        tokens = encoder(x.latents).tokens
        return max(apart(encoder(row[None]).tokens[0], tokens[i]) for i, row in enumerate(x.latents))

    properties.none("tokens [B, M, D], all finite", malformed, "Return Memory with one row per sample.", x=drawn)
    properties.at_least(
        "tokens depend on the clips", 1e-3, blind, "Other clips must give other tokens: use the latents.", x=drawn
    )
    properties.none(
        "equal inputs give equal tokens", unsteady, "In eval mode, draw no random numbers and keep no state.", x=drawn
    )
    properties.at_most(
        "samples are independent", tolerance, mixed, "Encode each row of the batch as if it were alone.", x=drawn
    )


def _check_masks(properties: Properties, encoder: Encoder, drawn: SearchStrategy[Clips], tolerance: float) -> None:
    def read(x: Clips, value: float) -> int:
        clean = encoder(x.latents.masked_fill(_hidden(x), 0.0), x.mask)
        spoiled = encoder(x.latents.masked_fill(_hidden(x), value), x.mask)
        return unequal(clean.tokens, spoiled.tokens)

    def unmarked(x: Clips) -> int:
        memory = encoder(x.latents, x.mask)
        if memory.mask is None or memory.mask.shape != memory.tokens.shape[:2]:
            return x.mask.numel()
        share = memory.mask.float().mean(1) - x.mask.float().mean(1)  # as many of the tokens as of the clips are real
        return int((share.abs() > 1e-6).sum()) + int((memory.tokens[~memory.mask] != 0).sum())

    def influenced(x: Clips) -> float:
        memory, found = encoder(x.latents, x.mask), 0.0
        for i, row in enumerate(x.mask):
            real, own = encoder(x.latents[i : i + 1, row]).tokens[0], memory.tokens[i][_mask(memory)[i]]
            found = max(found, apart(own, real))
        return found

    def kept(x: Clips) -> int:
        memory = encoder(torch.full_like(x.latents, torch.nan), torch.zeros_like(x.mask))
        return int((memory.tokens != 0).sum()) + (x.mask.numel() if memory.mask is None else int(memory.mask.sum()))

    unread = (
        "Replace masked clips by zeros with torch.where or masked_fill before any arithmetic; multiplying by the mask "
        "keeps NaN."
    )
    properties.none("masked clips are never read", read, unread, x=drawn, value=st.sampled_from([*NOT_FINITE, 1.0]))
    mark = "Return Memory(tokens, mask) with False for the tokens of masked clips, and zero tokens there."
    properties.none("tokens of masked clips are zero and masked", unmarked, mark, x=drawn)
    properties.at_most(
        "masked clips do not influence real ones",
        tolerance,
        influenced,
        "The tokens of real clips must be those that the real clips give alone.",
        x=drawn,
    )
    properties.none("without any real clip nothing is left", kept, mark, x=drawn)


def _check_order(properties: Properties, encoder: Encoder, drawn: SearchStrategy[Clips], tolerance: float) -> None:
    def tied(x: Clips, shuffle: int) -> float:
        """Which tokens are those of a clip is seen from the mask of its memory when all other clips are masked."""
        count = x.latents.shape[1]
        order = torch.randperm(count, generator=torch.Generator().manual_seed(shuffle))
        place = [_mask(encoder(x.latents[:1], torch.arange(count)[None] == n))[0] for n in range(count)]
        before, after = encoder(x.latents).tokens, encoder(x.latents[:, order]).tokens
        return max(apart(after[:, place[n]], before[:, place[int(order[n])]]) for n in range(count))

    properties.at_most(
        "reordering clips reorders tokens",
        tolerance,
        tied,
        "The position of a clip among the others may not change its tokens: retrieved clips have no order.",
        x=drawn,
        shuffle=st.integers(0, 99),
    )


def _check_refusals(properties: Properties, encoder: Encoder, drawn: SearchStrategy[Clips]) -> None:
    def taken(x: Clips) -> int:
        long = torch.ones(len(x.mask), x.mask.shape[1] + 1, dtype=torch.bool)
        more = torch.cat([x.latents, x.latents[:, :, :1]], dim=2)
        wrong = [(x.latents[:, 0], None), (x.latents[:, :0], None), (more, None), (x.latents, long)]
        return sum(not _refuses(encoder, *arguments) for arguments in wrong)

    properties.none(
        "wrong shapes are refused",
        taken,
        "Raise memkit.InputError for latents that are not [B, N, C, T, H, W] with N of 1 or more and the encoder's C, "
        "and for a mask that is not [B, N]: call memkit.encoders.check_clips first.",
        x=drawn,
    )


def _check_gradients(properties: Properties, encoder: Encoder, drawn: SearchStrategy[Clips]) -> None:
    if not isinstance(encoder, nn.Module):
        properties.skip("gradients (inherit from torch.nn.Module)")
        return
    own = {name: p for name, p in encoder.named_parameters() if p.requires_grad and not name.startswith("gate.")}
    reached = dict.fromkeys(own, 0.0)

    def spoiled(x: Clips, value: float) -> int:
        """Counts gradients that are not finite, or not zero at a masked clip; notes how far each parameter is moved."""
        latents = x.latents.masked_fill(_hidden(x), value).requires_grad_()
        state = {name: value.clone() for name, value in encoder.state_dict().items()}
        tokens = encoder.train()(latents, x.mask).tokens
        loss = (tokens * normal(1, *tokens.shape)).sum()
        *weights, clips = torch.autograd.grad(loss, [*own.values(), latents], materialize_grads=True)
        encoder.eval().load_state_dict(state)  # undoes the statistics that training collects
        for name, gradient in zip(own, weights, strict=True):
            reached[name] = max(reached[name], largest(gradient))
        infinite = sum(int((~gradient.isfinite()).sum()) for gradient in (*weights, clips))
        return infinite + int((clips.masked_select(_hidden(x)) != 0).sum())

    finite = "Replace masked clips by zeros before the first layer, not after it: 0 · NaN is NaN in the backward pass."
    values = st.sampled_from(NOT_FINITE)
    properties.none("gradients ignore masked clips", spoiled, finite, x=drawn, value=values)
    unused = [name for name, gradient in reached.items() if gradient < GRADIENT]
    properties.at_least(
        "gradients reach every parameter",
        GRADIENT,
        lambda: min(reached.values(), default=math.inf),
        f"No gradient reaches {', '.join(unused)}: use it in the tokens, do not initialise what follows it to zero, or "
        "set requires_grad_(False) where it is not trained.",
    )


def _check_saving(properties: Properties, encoder: Any, drawn: SearchStrategy[Clips]) -> None:
    def changed(x: Clips) -> int:
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            encoder.save_pretrained(Path(folder))
            loaded = type(encoder).from_pretrained(Path(folder))
            same = loaded.config == encoder.config and not loaded.training
            return int(not same) + unequal(encoder(x.latents).tokens, loaded(x.latents).tokens)

    properties.none(
        "a saved encoder is loaded to the bit",
        changed,
        "Create every layer from the config alone, and keep what is learned in parameters or buffers.",
        x=drawn,
    )


def _hidden(x: Clips) -> Tensor:
    return ~x.mask[:, :, None, None, None, None]


def _mask(memory: Memory) -> Tensor:
    assert memory.mask is not None, "the memory has no mask"
    return memory.mask


def _refuses(encoder: Encoder, *arguments: Any) -> bool:
    try:
        return encoder(*arguments) is None
    except (ValueError, TypeError):
        return True
