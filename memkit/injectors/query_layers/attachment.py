"""How `QueryLayers` is attached to a stock Wan: one pass for the context, which ends early, and one for Q and P.

Everything is done by hooks. The state of a pass travels in the `Carrier` that the model passes to every block, so a
block that gradient checkpointing recomputes finds the pass that it first ran in. C, Q and P are the tokens of context,
queries and prediction; see `QueryLayers`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from memkit.backbones.adapters.choice import adapter_of
from memkit.backbones.attached import Attached
from memkit.backbones.base import QUERY_LAYERS, Carrier
from memkit.backbones.protocol import Grid, Model
from memkit.backbones.rotary import checked_positions
from memkit.backbones.running import Running
from memkit.checks import check_finite, check_list, check_poses
from memkit.errors import InputError
from memkit.injectors.attention_recorder import AttentionRecorder
from memkit.injectors.query_layers.chunk import ChunkInputs, KeysAndValues, Pass, QueryChunk
from memkit.injectors.query_layers.config import QueryLayersConfig
from memkit.injectors.query_layers.injection import ContextDone, QueryLayer, leaving


class AttachedQueries(Attached):
    """Query layers attached to transformers until ``detach()`` or the end of the ``with`` statement.

    While attached, a transformer runs only inside `chunk`.
    """

    kind = QUERY_LAYERS
    places_frames = True
    needs_every_block = True  # the pass of the context keeps the keys and values of each

    def __init__(
        self,
        owner: object,
        models: Sequence[Model],
        config: QueryLayersConfig,
        start: Callable[[Tensor | None, Tensor], Tensor],
        cameras: nn.ModuleDict,
    ) -> None:
        self.config, self._start, self._cameras = config, start, cameras
        self.running: Running[QueryChunk] = Running(self.kind, self.begin_chunk)
        self._next: Pass | None = None  # the pass whose forward has begun
        super().__init__(owner, models)

    def part(self, model: Model, layer: int) -> QueryLayer:
        return QueryLayer(self.config, layer, self.key)

    def install(self, model: Model) -> None:
        """Register hooks on the model and on each self-attention."""
        self.keep(model.register_forward_pre_hook(self._before, with_kwargs=True))
        self.keep(model.register_forward_hook(self._after))
        adapter = adapter_of(model)
        for i, block in enumerate(adapter.blocks(model)):
            attention = adapter.attention(block)
            self.keep(attention.register_forward_pre_hook(partial(self._add_cameras, i)))
            if i < self.config.layers:
                self.keep(attention.register_forward_hook(self._skip_attention))

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
        recorder: AttentionRecorder | None = None,
    ) -> QueryChunk:
        """A context manager in which the transformers generate the frames of P with this context.

        Args:
            context: clean latents of the context frames [B or 1,C,N,H,W], or None.
            query: noise for Q [B or 1,C,F,H,W], only for ``query="noise"``; the same for all steps of the chunk.
            positions: positions of the frames of P, and of Q, which has the same; by default 0…F−1.
            context_positions: positions of the context frames, which may be negative or have gaps; by default −N…−1.
            cameras: poses of the frames of P [B or 1,F,12], also used for Q; see
                `memkit.cameras.relative_pose_vectors`.
            context_cameras: poses of the context frames [B or 1,N,12], relative to the same camera.
            annotation: kind of the poses, one of the config's ``cameras``.
            recorder: if given, records the share of Q's attention on each context frame, as the series "context",
                and, with ``queries=True``, the share of P's attention on Q in all layers, as "queries".

        Raises:
            InputError: there is no encoder for ``annotation``, positions or poses do not fit the number of frames, or
                latents or poses are not finite.
        """
        if (cameras is not None or context_cameras is not None) and annotation not in self.config.cameras:
            raise InputError(f"There is no encoder for {annotation!r} poses; choose one of {self.config.cameras}.")
        for name, latents in (("The context", context), ("The noise for Q", query)):
            if latents is not None:
                check_finite(name, latents, "[B, C, F, H, W]")
        for name, poses in (("cameras", cameras), ("context_cameras", context_cameras)):
            if poses is not None:
                check_poses(name, poses)
        frames = 0 if context is None else context.shape[2]
        at = range(-frames, 0) if context_positions is None else check_list("positions", context_positions, "frames")
        if len(at) != frames or (context_cameras is not None and context_cameras.shape[1] != frames):
            raise InputError(f"The context has {frames} frames; give one position and, if any, one pose for each.")
        inputs = ChunkInputs(
            context if frames else None,
            query,
            None if positions is None else checked_positions(positions),
            checked_positions(at) if frames else (),
            cameras,
            context_cameras if frames else None,
            annotation,
            recorder,
        )
        clean = self.config.context_time == "clean"
        return QueryChunk(self.running, inputs, clean, self._run_context)

    # -- the two passes ----------------------------------------------------------------------------------------------

    def _run_context(self, model: Any, named: dict[str, Any], inputs: ChunkInputs) -> list[KeysAndValues]:
        """Run the context through the query layers, by the model's own forward, which ends after the last of them."""
        adapter = adapter_of(model)
        depth = adapter.sizes(model).patch_size[0]
        if depth != 1:
            raise InputError(
                f"This model patches {depth} latent frames together; query layers need a model with patches of one."
            )
        running = Pass(inputs.context_positions, inputs.context_poses, inputs.kind, of_context=True)
        last = self.config.layers - 1
        self._next = running
        try:
            with contextlib.suppress(ContextDone), leaving(adapter.blocks(model)[last], running.kept, last):
                model(**named)
        finally:
            self._next = None
        return [running.kept[i] for i in range(self.config.layers)]

    def _before(self, model: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        if self._next is not None:  # this is the pass of the context
            return None
        chunk, named = self.running.current(), adapter_of(model).arguments(args, kwargs)
        inputs, x = chunk.inputs, named["hidden_states"]
        frames = x.shape[2]
        positions = tuple(range(frames)) if inputs.positions is None else inputs.positions
        if len(positions) != frames or (inputs.poses is not None and inputs.poses.shape[1] != frames):
            raise InputError(f"The prediction has {frames} frames; give one position and, if any, one pose for each.")
        context = chunk.context(model, named)
        poses = None if inputs.poses is None else torch.cat([inputs.poses, inputs.poses], dim=1)
        query = self._start(inputs.query, x)
        named = self._with_timesteps(model, x, named)
        recorder, row = inputs.recorder, None
        if recorder is not None:
            row = recorder.begin(self.config.layers, seen=inputs.context_positions)
        self._next = Pass(
            positions,
            poses,
            inputs.kind,
            of_context=False,
            context_frames=len(inputs.context_positions),
            context=context,
            row=row,
            of_queries=recorder is not None and recorder.queries,
        )
        return (), {**named, "hidden_states": torch.cat([query, x], dim=2)}

    def _with_timesteps(self, model: Any, x: Tensor, named: dict[str, Any]) -> dict[str, Any]:
        """The arguments with timesteps of Q and P: one per sample if they share it, otherwise the model's finest."""
        timestep = named["timestep"]
        if self.config.query_time == "shared" and timestep.ndim == 1:
            return named
        adapter = adapter_of(model)
        _, down, across = adapter.sizes(model).patch_size
        predicted = adapter.timesteps(timestep, len(x), Grid(x.shape[2], x.shape[3] // down, x.shape[4] // across))
        query = predicted if self.config.query_time == "shared" else torch.zeros_like(predicted)
        return adapter.with_timesteps(named, torch.cat([query, predicted], dim=1))

    def _after(self, model: Any, args: tuple, output: Any) -> Any:
        """Return only the velocity of P; the velocity of Q is kept in the chunk."""
        query, velocity = output[0].chunk(2, dim=2)
        self.running.current().query_velocity = query
        return (velocity,) if isinstance(output, tuple) else type(output)(sample=velocity)

    # -- hooks of the submodules -------------------------------------------------------------------------------------

    def rotary(self, model: Model, grid: Grid | None, carrier: Carrier) -> Carrier:
        """Rotary tables for the frames of the pass; Q and P have the same positions."""
        running, self._next = self._next, None
        assert running is not None and grid is not None
        tables = adapter_of(model).rotary_at(model, running.positions, grid)
        if not running.of_context:
            tables = tuple(torch.cat([x, x], dim=1) for x in tables)
        return carrier._replace(cos=tables[0], sin=tables[1]).with_state(self.key, running)

    def _add_cameras(self, block: int, _attn: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        running: Pass = args[3].state(self.key)
        if running.poses is None:
            return None
        hidden = args[0]
        per_frame = hidden.shape[1] // running.poses.shape[1]
        added = self._cameras[running.kind](running.poses.to(hidden.device), block)
        return hidden + added.repeat_interleave(per_frame, dim=1).type_as(hidden), *args[1:]

    def _skip_attention(self, _attn: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """Return 0 for the context, so that the self-attention adds nothing to it, not even the projection's bias."""
        return torch.zeros_like(output) if args[3].state(self.key).of_context else None
