"""What a model with attachments is not run with, and diffusers' caches, whose state belongs to what was attached.

diffusers' caches (PyramidAttentionBroadcast, FirstBlockCache, MagCache, TaylorSeer, FasterCache, SeaCache) keep outputs
of some layers and give them again at later calls. What they kept with one memory must not be given with another, so
they are reset whenever something is attached or detached, or a chunk begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

from diffusers.hooks import ModelHook
from diffusers.hooks.hooks import StateManager
from torch import nn

from memkit.backbones.base import QUERY_LAYERS, TEACHER_FORCING, Carrier
from memkit.backbones.context_parallel import unsupported
from memkit.errors import InputError, MemkitError


@runtime_checkable
class Needs(Protocol):
    """What an attachment says of itself."""

    kind: ClassVar[str]
    needs_every_block: ClassVar[bool]
    differs_by_pass: ClassVar[bool]

    def runs_in_parallel(self) -> bool: ...


Caches = Sequence[tuple[nn.Module, ModelHook]]
"""The hooks of diffusers' caches, and the modules that have them."""


def check_runnable(model: Any, attachments: Sequence[Needs]) -> Caches:
    """Raise `MemkitError` if the model has a feature enabled with which the attachments would give wrong results.

    Returns the caches that are enabled, for `reset_caches`.
    """
    if (parallel := getattr(model, "_parallel_config", None)) is not None:
        why = unsupported(model, parallel)
        if whole := " and ".join(each.kind for each in attachments if not each.runs_in_parallel()):
            why = f"{whole} would act on each part as if it were whole"
        if why is not None:
            raise MemkitError(
                f"The transformer runs in parallel over its tokens or heads (enable_parallelism), while {why}. Load it "
                "without a parallel_config; to use several GPUs, run one video on each, or shard the weights with "
                "FSDP2."
            )
    caches = tuple(_caches(model))
    for _, hook in caches:
        for attachment in attachments:
            if attachment.needs_every_block:
                raise MemkitError(
                    f"The transformer has a cache of diffusers enabled ({_name(hook)}), which skips blocks, and "
                    f"{attachment.kind} attached, which needs every block to run; call transformer.disable_cache()."
                )
            if attachment.differs_by_pass and not _state_managers(hook):
                raise MemkitError(
                    f"{_name(hook)} counts calls and does not tell the passes of guidance apart, of which "
                    f"{attachment.kind} shows memory to one only: it would reuse the attention of another pass. Use a "
                    "cache that keeps them apart, such as FirstBlockCacheConfig, or transformer.disable_cache()."
                )
    return caches


def refuse_cache(model: nn.Module, what: str) -> None:
    """Raise `MemkitError`, with ``what`` as the reason, if one of diffusers' caches is enabled."""
    for _, hook in _caches(model):
        raise MemkitError(
            f"The transformer has a cache of diffusers enabled ({_name(hook)}), which skips blocks: {what}; call "
            "transformer.disable_cache()."
        )


def refuse_other_tokens(kind: str, frames: int, tokens: int, found: int, carrier: Carrier) -> None:
    """Raise `InputError` where a sequence of ``found`` tokens is not the frames of one chunk, of ``tokens`` each."""
    if found != frames * tokens or {TEACHER_FORCING, QUERY_LAYERS} & carrier.states.keys():
        raise InputError(
            f"{kind[0].upper()}{kind[1:]} cannot act on a sequence with other tokens than those of {frames} frames; "
            "detach teacher forcing, frame context or query layers first."
        )


def reset_caches(model: nn.Module, caches: Caches | None = None) -> None:
    """Forget what diffusers' caches kept, by default all of the model; a ``cache_context`` that is open stays open."""
    for module, hook in tuple(_caches(model)) if caches is None else caches:
        managers = _state_managers(hook)
        contexts = [manager._context for manager in managers]
        hook.reset_state(module)
        for manager, context in zip(managers, contexts, strict=True):
            manager.set_context(context)


def _caches(model: nn.Module) -> Iterator[tuple[nn.Module, ModelHook]]:
    """The stateful hooks of the model's modules; caches have no public list.

    All modules are looked at in each forward pass, so this is a bare loop: `nn.Module.modules` takes four times as
    long.
    """
    modules = [model]
    while modules:
        module = modules.pop()
        own = vars(module)
        if "_diffusers_hook" in own:
            for hook in tuple(own["_diffusers_hook"].hooks.values()):
                if hook._is_stateful:
                    yield module, hook
        if own["_modules"]:
            modules += [child for child in own["_modules"].values() if child is not None]


def _state_managers(hook: ModelHook) -> list[StateManager]:
    """Where a hook keeps its state for each ``cache_context``; empty for a hook that keeps one for all calls."""
    return [value for value in vars(hook).values() if isinstance(value, StateManager)]


def _name(hook: ModelHook) -> str:
    return type(hook).__name__.removesuffix("Hook")
