"""Memory as a direction of its own in classifier-free guidance.

Where both passes of a guided step see the memory, as in the release of DiT-Mem, guidance cannot amplify it: the scale
multiplies only what the text changed. Here memory is shown to the conditional pass alone, either as one condition with
the text, v∅ + w·(v_text,mem − v∅), or as a third term with a scale of its own:

    v∅ + w·(v_text − v∅) + w_m·(v_text,mem − v_text)

The pipeline stays the stock one. It weighs its two predictions by w and 1 − w, which sum to one; so
w_m·(v_text,mem − v_text) is added to both of them, and comes out once, whatever w is: no scale need be known here, be
it that of the second expert (``guidance_scale_2``) or one changed on the way. With ``guidance_scale`` 1 the pipeline
runs the conditional pass alone, and makes v_text + w_m·(v_text,mem − v_text).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from memkit.backbones.attachment import wan_of
from memkit.errors import InputError, MemkitError
from memkit.injectors.self_attention import SelfAttentionConcat

MemoryGuidance = Literal["conditional"] | float | int
"""``"conditional"``: memory in the conditional pass, under the pipeline's own scale. A number: the scale w_m."""

CONDITIONAL, UNCONDITIONAL = "cond", "uncond"
"""The names by which diffusers' pipelines announce their passes."""


@contextmanager
def guided_memory(injector: SelfAttentionConcat, guidance: MemoryGuidance, *transformers: nn.Module) -> Iterator[None]:
    """In place of ``injector.attach(*transformers)``: only the conditional pass sees the memory.

        with guided_memory(SelfAttentionConcat(memory), 3.0, pipe.transformer):
            video = pipe(prompt, guidance_scale=5.0).frames[0]

    ``guidance`` is ``"conditional"``, or the scale w_m of the formula above: 0 is no memory, w_m = w is
    ``"conditional"``, below 0 leads away from the memory. A scale costs a third evaluation a step (a second one at
    ``guidance_scale`` 1). Give both experts of Wan2.2 A14B. What else is attached to the transformers is seen by every
    evaluation; afterwards they are what they were.

    Raises:
        InputError: the scale is not finite, the memory does not fit (see `SelfAttentionConcat.attach`), or a
            transformer is guided already.
        MemkitError, from a call of a transformer: its pass is not known, since the pipeline does not announce
            "cond" and "uncond" by ``cache_context`` (the stock Wan pipelines do); or, with a scale, the unconditional
            pass does not follow the conditional one on the same latents.
    """
    if guidance != "conditional" and not (isinstance(guidance, float | int) and math.isfinite(guidance)):
        raise InputError(f'memory guidance must be "conditional" or a finite scale, not {guidance!r}.')
    with injector.attach(*transformers):
        pass  # what does not fit is refused now, not at the first step
    with ExitStack() as stack:
        for transformer in transformers:
            guided = _Guided(transformer, injector, guidance)
            stack.enter_context(guided.announced())
            stack.callback(transformer.register_forward_pre_hook(guided.before).remove)
            if guided.scale is not None:
                stack.callback(transformer.register_forward_hook(guided.after, with_kwargs=True).remove)
        yield


class _Guided:
    """One transformer: which pass runs, and what memory changed in the conditional one."""

    def __init__(self, transformer: nn.Module, injector: SelfAttentionConcat, guidance: MemoryGuidance) -> None:
        self.transformer = transformer
        self.injector = injector
        self.scale = None if isinstance(guidance, str) else guidance
        self.model: Any = wan_of(transformer)
        self.enter_cache = self.model.cache_context
        self.running: str | None = None
        self.about: dict[str, Any] = {}
        self.kept: tuple[Tensor, Tensor] | None = None  # the latents of the conditional pass, and what is added

    @contextmanager
    def announced(self) -> Iterator[None]:
        """Listen to the public ``cache_context`` of this one model; diffusers' own record of it is private."""
        if "cache_context" in vars(self.model):
            raise InputError("The transformer's memory is guided already; guide one memory (Memory.cat joins several).")
        self.model.cache_context = self.enter
        try:
            yield
        finally:
            del self.model.cache_context

    @contextmanager
    def enter(self, name: str, **about: Any) -> Iterator[None]:
        """The model's ``cache_context`` meanwhile; ``about`` goes through to diffusers' caches as it is."""
        with ExitStack() as stack:
            stack.enter_context(self.enter_cache(name, **about))
            if self.scale is None and name == CONDITIONAL:
                stack.enter_context(self.injector.attach(self.transformer))
            self.running, self.about = name, about
            try:
                yield
            finally:
                self.running, self.about = None, {}

    def before(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if self.running not in (CONDITIONAL, UNCONDITIONAL):
            found = "in no pass" if self.running is None else f"in a pass named {self.running!r}"
            raise MemkitError(
                f"The transformer was called {found}, so guidance cannot tell whether it may see the memory. Use a "
                'pipeline that calls it inside transformer.cache_context("cond") and ("uncond"), as WanPipeline does, '
                "or attach the memory without guidance."
            )

    def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """The prediction with the third term, which the conditional pass makes and the unconditional one shares."""
        latents, own = args[0] if args else kwargs["hidden_states"], output[0]
        if self.running == CONDITIONAL:
            added = self.scale * (self._shown(module, args, kwargs) - own)
            self.kept = (latents, added)
        else:
            added = self._added(latents)
        made = own + added
        return (made,) if isinstance(output, tuple) else replace(output, sample=made)

    def _shown(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """The prediction that sees the memory, on the very inputs of this call: its hooks have changed them already."""
        # A pass of its own for diffusers' caches, or they would take it for a repetition of the one without memory.
        with self.injector.attach(self.transformer), self.enter_cache("cond with memory", **self.about):
            return module.forward(*args, **kwargs)[0]

    def _added(self, latents: Tensor) -> Tensor:
        kept, self.kept = self.kept, None
        if kept is None or not torch.equal(kept[0], latents):
            raise MemkitError(
                "The unconditional pass did not follow the conditional one on the same latents (or they are NaN): the "
                'memory term is not known. Use a pipeline of that order, as WanPipeline, or "conditional" guidance.'
            )
        return kept[1]
