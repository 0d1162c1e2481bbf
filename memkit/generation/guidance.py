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

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from memkit.backbones.attached import Attached
from memkit.backbones.base import MEMORY_TOKENS
from memkit.backbones.cache_context import listen, own_context
from memkit.backbones.protocol import Model
from memkit.backbones.unwrap import Attachable, transformers_of
from memkit.checks import check_scale, shown
from memkit.display import described
from memkit.errors import InputError, MemkitError
from memkit.injectors.self_attention import SelfAttentionConcat

MemoryGuidance = Literal["conditional"] | float
"""``"conditional"``: memory in the conditional pass, under the pipeline's own scale. A number: the scale w_m."""

CONDITIONAL, UNCONDITIONAL = "cond", "uncond"
"""The names by which diffusers' pipelines announce their passes."""


class GuidedMemory:
    """In place of the injector alone: only the conditional pass sees the memory.

        with GuidedMemory(SelfAttentionConcat(memory), 3.0).attach(pipe):
            video = pipe(prompt, guidance_scale=5.0).frames[0]

    Args:
        injector: what shows the memory.
        guidance: ``"conditional"``, or the scale w_m of the formula above: 0 is no memory, w_m = w is
            ``"conditional"``, below 0 leads away from the memory. A scale costs a third evaluation per step (a second
            one at ``guidance_scale`` 1).

    Raises:
        InputError: the scale is not finite, or beyond ±1000.
    """

    def __init__(self, injector: SelfAttentionConcat, guidance: MemoryGuidance) -> None:
        if not isinstance(injector, SelfAttentionConcat):
            raise InputError(f"The injector is {shown(injector)}; give SelfAttentionConcat(memory).")
        if guidance != "conditional":
            check_scale('Memory guidance, if it is not "conditional",', guidance)
        self.injector = injector
        self.guidance: MemoryGuidance = guidance

    def __repr__(self) -> str:
        return described(self, repr(self.injector), repr(self.guidance))

    def attach(self, *models: Attachable) -> AttachedGuidance:
        """Attach to each transformer, or each expert of a pipeline or backbone, until ``detach()`` or the end of the
        ``with``. What else is attached to the transformers is seen by every evaluation.

        Raises:
            InputError: the memory does not fit (see `SelfAttentionConcat.attach`), or a transformer has guided memory.
            MemkitError: from a call of a transformer: its pass is not known, since the pipeline does not announce
                "cond" and "uncond" by ``cache_context`` (the stock Wan pipelines do); or, with a scale, the
                unconditional pass does not follow the conditional one on the same latents.
        """
        transformers = transformers_of(models, MEMORY_TOKENS)
        for model in transformers:
            if not hasattr(model, "cache_context"):
                raise InputError(
                    f"A {type(model).__name__} has no cache_context, by which pipelines announce their passes, so "
                    "guidance cannot tell which pass may see the memory; attach the memory without guidance."
                )
        return AttachedGuidance(self, transformers)


class AttachedGuidance(Attached):
    """Guided memory on some transformers until ``detach`` or the end of the ``with``."""

    kind = "guided memory"
    differs_by_pass = True
    owner: GuidedMemory

    def __init__(self, owner: GuidedMemory, models: Sequence[Model]) -> None:
        self._injector = copy.copy(owner.injector)  # hidden and shown here alone
        self._injector.shown = False
        self._undo: list[Callable[[], None]] = []
        super().__init__(owner, models)

    def runs_in_parallel(self) -> bool:
        """As its memory, which is attached too and says so itself."""
        return True

    def install(self, model: Model) -> None:
        """The memory, hidden, hooks around the model, and an ear at its public ``cache_context``."""
        self._undo.append(self._injector.attach(model).detach)
        guided = _Guided(model, self._injector, self.owner.guidance)
        self._undo.append(listen(model, guided.enter))
        self.keep(model.register_forward_pre_hook(guided.before))
        if guided.scale is not None:
            self.keep(model.register_forward_hook(guided.after, with_kwargs=True))

    def detach(self) -> None:
        """Take it away; what else is attached to the transformers stays."""
        while self._undo:
            self._undo.pop()()
        super().detach()


class _Guided:
    """One transformer: which pass runs, and what memory changed in the conditional one."""

    def __init__(self, model: Any, injector: SelfAttentionConcat, guidance: MemoryGuidance) -> None:
        self.injector = injector
        self.scale = None if isinstance(guidance, str) else guidance
        self.enter_cache = own_context(model)
        self.running: str | None = None
        self.about: dict[str, Any] = {}
        self.kept: tuple[Tensor, Tensor] | None = None  # the latents of the conditional pass, and what is added

    @contextmanager
    def enter(self, name: str, about: dict[str, Any]) -> Iterator[None]:
        """A pass of the pipeline, which its ``cache_context`` announces."""
        with self._showing() if self.scale is None and name == CONDITIONAL else nullcontext():
            self.running, self.about = name, about
            try:
                yield
            finally:
                self.running, self.about = None, {}

    @contextmanager
    def _showing(self) -> Iterator[None]:
        """The memory is seen inside. It stays attached: attaching it anew would have ``torch.compile`` compile anew."""
        self.injector.shown = True
        try:
            yield
        finally:
            self.injector.shown = False

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
        guided = own + added
        return (guided,) if isinstance(output, tuple) else replace(output, sample=guided)

    def _shown(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """The prediction that sees the memory, on the very inputs of this call: its hooks have changed them already."""
        # A pass of its own for diffusers' caches, or they would take it for a repetition of the one without memory.
        with self._showing(), self.enter_cache("cond with memory", **self.about):
            return module.forward(*args, **kwargs)[0]

    def _added(self, latents: Tensor) -> Tensor:
        kept, self.kept = self.kept, None
        if kept is None or not torch.equal(kept[0], latents):
            raise MemkitError(
                "The unconditional pass did not follow the conditional one on the same latents (or they are NaN): the "
                'memory term is not known. Use a pipeline of that order, as WanPipeline, or "conditional" guidance.'
            )
        return kept[1]
