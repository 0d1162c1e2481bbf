"""Putting injections on stock Wan transformers, and taking them off again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import nn

from memkit.backbones.base import Grouping, Part, Positioning
from memkit.backbones.wan_attention import Block, GroupedSelfAttention, prepare_injections
from memkit.errors import InputError


class Attachment:
    """Injections on some transformers until ``detach`` or the end of the ``with``; then each model is what it was."""

    def __init__(self, transformers: Sequence[nn.Module], make: Callable[[WanTransformer3DModel, int], Part]) -> None:
        models = [wan_of(t) for t in transformers]
        plan = [(block, make(model, i)) for model in models for i, block in enumerate(model.blocks)]
        for block, part in plan:
            _refuse_second(block, part)
        self._installed: list[tuple[Block, Part]] = []
        for block, injection in plan:
            _install(block, injection)
            self._installed.append((block, injection))

    def detach(self) -> None:
        """Take these injections away; others attached to the same blocks stay, in whatever order they came."""
        while self._installed:
            _uninstall(*self._installed.pop())

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()


def wan_of(model: nn.Module) -> WanTransformer3DModel:
    """The Wan transformer in ``model``: itself, or what ``torch.compile`` wrapped.

    Raises:
        InputError: it is no Wan transformer, or its processors are not the stock ones.
    """
    model = getattr(model, "_orig_mod", model)
    if not isinstance(model, WanTransformer3DModel):
        raise InputError(
            f"Memory attaches to a diffusers WanTransformer3DModel, not to {type(model).__name__}; "
            "give pipe.transformer (and pipe.transformer_2 for Wan2.2 A14B)."
        )
    for i, block in enumerate(model.blocks):
        processor = block.attn1.processor
        if type(processor) not in (WanAttnProcessor, GroupedSelfAttention):
            raise InputError(
                f"blocks[{i}].attn1 has the processor {type(processor).__name__}, which memory would replace; "
                "set it back to WanAttnProcessor() first."
            )
    return model


def wans_of(transformers: Sequence[nn.Module]) -> list[WanTransformer3DModel]:
    """The Wan transformer in each, as ``wan_of`` finds it.

    Raises:
        InputError: there is none, one comes twice, or one is not a Wan transformer.
    """
    models = [wan_of(model) for model in transformers]
    if not models or len({id(model) for model in models}) != len(models):
        raise InputError("attach() needs transformers, each once: attach(pipe.transformer).")
    return models


def _refuse_second(block: Block, part: Part) -> None:
    found = block.attn1.processor
    if not isinstance(found, GroupedSelfAttention):
        return
    if isinstance(part, Positioning) and found.positioning is not None:
        raise InputError("The transformer's tokens have camera positions attached already; detach those first.")
    if isinstance(part, Grouping) and found.grouping is not None:
        raise InputError("The transformer's tokens are grouped already, by teacher forcing; detach that first.")


def _install(block: Block, part: Part) -> None:
    found = block.attn1.processor
    if isinstance(found, GroupedSelfAttention):
        inner, parts, hook = found.inner, found.parts, found.hook
    else:
        inner, parts, hook = found, (), block.register_forward_pre_hook(prepare_injections)
    block.attn1.processor = GroupedSelfAttention(inner, (*parts, part), hook)


def _uninstall(block: Block, part: Part) -> None:
    found = block.attn1.processor
    rest = tuple(other for other in found.parts if other is not part)
    if rest:
        block.attn1.processor = GroupedSelfAttention(found.inner, rest, found.hook)
    else:
        found.hook.remove()
        block.attn1.processor = found.inner
