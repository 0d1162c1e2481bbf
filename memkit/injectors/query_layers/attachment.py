"""How `QueryLayers` runs on a stock Wan: one pass for the context, which ends early, and one for query and prediction.

All of it is hooks. What a pass needs travels with its rotary tables, which the model hands to every block: so a block
that gradient checkpointing runs again finds the pass it was run in.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from memkit.backbones.attachment import Attachment
from memkit.backbones.rotary import checked_positions, rotary_at
from memkit.backbones.wan_call import call_arguments
from memkit.errors import InputError, MemkitError
from memkit.injectors.query_layers.chunk import ChunkInputs, KeysAndValues, Pass, QueryChunk
from memkit.injectors.query_layers.injection import ContextDone, QueryLayer, leaving, pass_unchanged

if TYPE_CHECKING:
    from memkit.injectors.query_layers.layers import QueryLayers
    from memkit.injectors.query_layers.monitor import QueryMonitor


class _Rotary(tuple):
    """The (cos, sin) of a forward, and its pass."""

    of: Pass


class QueryAttachment:
    """Query layers on some transformers until ``detach`` or the end of the ``with``; then each model is what it was."""

    def __init__(self, query: QueryLayers, models: Sequence[WanTransformer3DModel]) -> None:
        for model in models:
            attached = getattr(model.blocks[0].attn1.processor, "injections", ())
            if any(isinstance(injection, QueryLayer) for injection in attached):
                raise InputError("The transformer has query layers attached; detach those first.")
        self.query = query
        self.open: QueryChunk | None = None
        self.running: Pass | None = None
        self._next: Pass | None = None
        self._attachment = Attachment(models, lambda _model, layer: QueryLayer(self, layer))
        self._hooks: list[RemovableHandle] = []
        for model in models:
            self._hooks.append(model.register_forward_pre_hook(self._before, with_kwargs=True))
            self._hooks.append(model.register_forward_hook(self._after))
            self._hooks.append(model.rope.register_forward_hook(self._rotary))
            for i, block in enumerate(model.blocks):
                self._hooks.append(block.register_forward_pre_hook(self._enter_block, prepend=True))
                self._hooks.append(block.attn1.register_forward_pre_hook(self._add_cameras(i)))
                if i < query.config.layers:
                    self._hooks.append(block.attn1.register_forward_hook(pass_unchanged))

    def chunk(
        self,
        context: Tensor | None,
        query: Tensor | None = None,
        *,
        positions: Sequence[int] | None = None,
        context_positions: Sequence[int] | None = None,
        cameras: Tensor | None = None,
        context_cameras: Tensor | None = None,
        annotation: str = "exact",
        monitor: QueryMonitor | None = None,
    ) -> QueryChunk:
        """A ``with`` in which the transformers make the frames of P from this context.

        Args:
            context: clean latents [B or 1,C,F,H,W] of the past, or None.
            query: noise of Q [B or 1,C,F,H,W], with ``query="noise"``; drawn once, for all steps of the chunk.
            positions: of P's frames, and Q's, which are the same; 0…F−1 without.
            context_positions: of C's frames, negative or with gaps; −n…−1 without.
            cameras: poses of P's frames [B or 1,F,12], which Q's take too; see `relative_pose_vectors`.
            context_cameras: poses of C's frames, relative to the same camera.
            annotation: the kind of the poses, one of the config's ``cameras``.
            monitor: if given, records the share of Q's attention on each frame of the context.

        Raises:
            InputError: an annotation that there is no encoder for, or positions and poses that do not fit the frames.
        """
        if (cameras is not None or context_cameras is not None) and annotation not in self.query.config.cameras:
            raise InputError(f"There is no encoder for {annotation!r} poses; there are {self.query.config.cameras}.")
        frames = 0 if context is None else context.shape[2]
        at = range(-frames, 0) if context_positions is None else context_positions
        if len(at) != frames or (context_cameras is not None and context_cameras.shape[1] != frames):
            raise InputError(f"The context has {frames} frames; give one position and, if any, one pose for each.")
        given = ChunkInputs(
            context if frames else None,
            query,
            None if positions is None else checked_positions(positions),
            checked_positions(at) if frames else (),
            cameras,
            context_cameras if frames else None,
            annotation,
            monitor,
        )
        return QueryChunk(self, given)

    def detach(self) -> None:
        """Take the query layers away; other injections stay."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._attachment.detach()

    def __enter__(self) -> QueryAttachment:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    # -- the two passes ----------------------------------------------------------------------------------------------

    def run_context(self, model: Any, named: dict[str, Any], given: ChunkInputs) -> list[KeysAndValues]:
        """The context through the query layers, by the model's own forward, which ends when they are done."""
        depth = model.config.patch_size[0]
        if depth != 1:
            raise InputError(f"This model patches {depth} latent frames together; query layers are for one at a time.")
        made = Pass(given.context_positions, given.context_poses, given.kind, of_context=True)
        last = self.query.config.layers - 1
        self._next = made
        try:
            with contextlib.suppress(ContextDone), leaving(model.blocks[last], made.kept, last):
                model(**named)
        finally:
            self._next = None
        return [made.kept[i] for i in range(self.query.config.layers)]

    def _before(self, model: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        if self._next is not None:  # the pass of the context
            return None
        if self.open is None:
            raise MemkitError(
                "A transformer with query layers ran outside a chunk; call it in `with attached.chunk(context, …):`, "
                "or detach them."
            )
        named = call_arguments(args, kwargs)
        given, x = self.open.given, named["hidden_states"]
        frames = x.shape[2]
        positions = tuple(range(frames)) if given.positions is None else given.positions
        if len(positions) != frames or (given.poses is not None and given.poses.shape[1] != frames):
            raise InputError(f"The prediction has {frames} frames; give one position and, if any, one pose for each.")
        context = self.open.context(model, named)
        poses = None if given.poses is None else torch.cat([given.poses, given.poses], dim=1)
        query = self.query.start(given.query, x)
        timestep = self._timesteps(model, x, named["timestep"])
        monitor, layers = given.monitor, self.query.config.layers
        row = None if monitor is None else monitor.begin(layers, len(given.context_positions))
        self._next = Pass(positions, poses, given.kind, of_context=False, context=context, row=row)
        return (), {**named, "hidden_states": torch.cat([query, x], dim=2), "timestep": timestep}

    def _timesteps(self, model: Any, x: Tensor, timestep: Tensor) -> Tensor:
        """Of Q and P: one a sample where they are the same, else one a token."""
        if self.query.config.query_time == "shared" and timestep.ndim == 1:
            return timestep
        _, down, across = model.config.patch_size
        tokens = x.shape[2] * (x.shape[3] // down) * (x.shape[4] // across)
        own = (timestep[:, None] if timestep.ndim == 1 else timestep).expand(x.shape[0], tokens)
        return torch.cat([own if self.query.config.query_time == "shared" else torch.zeros_like(own), own], dim=1)

    def _after(self, model: Any, args: tuple, output: Any) -> Any:
        """Without Q's frames, which the chunk keeps."""
        both = output[0]
        query, made = both.chunk(2, dim=2)
        assert self.open is not None  # `_before` has seen to it
        self.open.made = query
        return (made,) if isinstance(output, tuple) else type(output)(sample=made)

    # -- hooks of the parts ------------------------------------------------------------------------------------------

    def _rotary(self, rope: Any, args: tuple[Tensor], _stock: Any) -> _Rotary:
        running, self._next = self._next, None
        assert running is not None
        height, width = args[0].shape[3] // rope.patch_size[1], args[0].shape[4] // rope.patch_size[2]
        tables = rotary_at(rope, running.positions, height, width)
        rotary = _Rotary(tables if running.of_context else tuple(torch.cat([x, x], dim=1) for x in tables))
        rotary.of = running
        return rotary

    def _enter_block(self, _block: nn.Module, args: tuple[Any, ...]) -> None:
        self.running = args[3].of

    def _add_cameras(self, block: int) -> Any:
        def hook(_attn: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            running: Pass = args[3].rotary.of
            if running.poses is None:
                return None
            hidden = args[0]
            tokens_per_frame = hidden.shape[1] // running.poses.shape[1]
            added = self.query.camera_tokens(running.poses.to(hidden.device), running.kind, block, tokens_per_frame)
            assert added is not None
            return hidden + added.type_as(hidden), *args[1:]

        return hook
