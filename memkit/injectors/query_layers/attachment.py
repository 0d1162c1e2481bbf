"""How `QueryLayers` runs on a stock Wan: one pass for the context, which ends early, and one for query and prediction.

All of it is hooks. What a pass needs travels in the `Carrier` that the model hands to every block: so a block that
gradient checkpointing runs again finds the pass that it was run in.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from memkit.backbones.attached import Attached, Running
from memkit.backbones.base import Carrier
from memkit.backbones.rotary import checked_positions, rotary_at
from memkit.backbones.wan_call import call_arguments
from memkit.errors import InputError
from memkit.injectors.attention_recorder import AttentionRecorder
from memkit.injectors.query_layers.chunk import ChunkInputs, KeysAndValues, Pass, QueryChunk
from memkit.injectors.query_layers.config import QueryLayersConfig
from memkit.injectors.query_layers.injection import ContextDone, QueryLayer, leaving


class AttachedQueries(Attached):
    """Query layers on some transformers until ``detach`` or the end of the ``with``.

    Attached, a transformer runs inside `chunk` only.
    """

    kind = "query layers"
    places_frames = True

    def __init__(
        self,
        owner: object,
        models: Sequence[WanTransformer3DModel],
        config: QueryLayersConfig,
        start: Callable[[Tensor | None, Tensor], Tensor],
        cameras: nn.ModuleDict,
    ) -> None:
        self.config, self._start, self._cameras = config, start, cameras
        self.running: Running[QueryChunk] = Running(self.kind)
        self._next: Pass | None = None  # of the forward that has begun
        super().__init__(owner, models)

    def part(self, model: WanTransformer3DModel, layer: int) -> QueryLayer:
        return QueryLayer(self.config, layer, self.key)

    def install(self, model: WanTransformer3DModel) -> None:
        """Hooks around the model, and of each self-attention."""
        self.keep(model.register_forward_pre_hook(self._before, with_kwargs=True))
        self.keep(model.register_forward_hook(self._after))
        for i, block in enumerate(model.blocks):
            self.keep(block.attn1.register_forward_pre_hook(partial(self._add_cameras, i)))
            if i < self.config.layers:
                self.keep(block.attn1.register_forward_hook(self._pass_unchanged))

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
        """A ``with`` in which the transformers generate the frames of P from this context.

        Args:
            context: clean latents [B or 1,C,F,H,W] of the past, or None.
            query: noise of Q [B or 1,C,F,H,W], with ``query="noise"``; drawn once, for all steps of the chunk.
            positions: of P's frames, and Q's, which are the same; 0…F−1 without.
            context_positions: of C's frames, negative or with gaps; −n…−1 without.
            cameras: poses of P's frames [B or 1,F,12], which Q's take too; see `memkit.cameras.relative_pose_vectors`.
            context_cameras: poses of C's frames, relative to the same camera.
            annotation: the kind of the poses, one of the config's ``cameras``.
            recorder: if given, records the share of Q's attention on each frame of the context, as the series
                "context", and, if it wants it, that of P's attention on Q in all layers, as "queries".

        Raises:
            InputError: an annotation that there is no encoder for, or positions and poses that do not fit the frames.
        """
        if (cameras is not None or context_cameras is not None) and annotation not in self.config.cameras:
            raise InputError(f"There is no encoder for {annotation!r} poses; there are {self.config.cameras}.")
        frames = 0 if context is None else context.shape[2]
        at = range(-frames, 0) if context_positions is None else context_positions
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
        """The context through the query layers, by the model's own forward, which ends when they are done."""
        depth = model.config.patch_size[0]
        if depth != 1:
            raise InputError(f"This model patches {depth} latent frames together; query layers are for one at a time.")
        running = Pass(inputs.context_positions, inputs.context_poses, inputs.kind, of_context=True)
        last = self.config.layers - 1
        self._next = running
        try:
            with contextlib.suppress(ContextDone), leaving(model.blocks[last], running.kept, last):
                model(**named)
        finally:
            self._next = None
        return [running.kept[i] for i in range(self.config.layers)]

    def _before(self, model: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        if self._next is not None:  # the pass of the context
            return None
        chunk, named = self.running.current(), call_arguments(args, kwargs)
        inputs, x = chunk.inputs, named["hidden_states"]
        frames = x.shape[2]
        positions = tuple(range(frames)) if inputs.positions is None else inputs.positions
        if len(positions) != frames or (inputs.poses is not None and inputs.poses.shape[1] != frames):
            raise InputError(f"The prediction has {frames} frames; give one position and, if any, one pose for each.")
        context = chunk.context(model, named)
        poses = None if inputs.poses is None else torch.cat([inputs.poses, inputs.poses], dim=1)
        query = self._start(inputs.query, x)
        timestep = self._timesteps(model, x, named["timestep"])
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
        return (), {**named, "hidden_states": torch.cat([query, x], dim=2), "timestep": timestep}

    def _timesteps(self, model: Any, x: Tensor, timestep: Tensor) -> Tensor:
        """Of Q and P: one per sample where they are the same, else one per token."""
        if self.config.query_time == "shared" and timestep.ndim == 1:
            return timestep
        _, down, across = model.config.patch_size
        tokens = x.shape[2] * (x.shape[3] // down) * (x.shape[4] // across)
        own = (timestep[:, None] if timestep.ndim == 1 else timestep).expand(x.shape[0], tokens)
        return torch.cat([own if self.config.query_time == "shared" else torch.zeros_like(own), own], dim=1)

    def _after(self, model: Any, args: tuple, output: Any) -> Any:
        """Without Q's frames, whose velocity the chunk keeps."""
        query, velocity = output[0].chunk(2, dim=2)
        self.running.current().query_velocity = query
        return (velocity,) if isinstance(output, tuple) else type(output)(sample=velocity)

    # -- hooks of the parts ------------------------------------------------------------------------------------------

    def rotary(self, model: WanTransformer3DModel, latents: Tensor, carrier: Carrier) -> Carrier:
        """The tables of the pass's own frames; Q and P have the same."""
        running, self._next = self._next, None
        assert running is not None
        down, across = model.config.patch_size[1:]
        tables = rotary_at(model.rope, running.positions, latents.shape[3] // down, latents.shape[4] // across)
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

    def _pass_unchanged(self, _attn: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """The context leaves the self-attention as it came: nothing is added, not even the projection's bias."""
        return torch.zeros_like(output) if args[3].state(self.key).of_context else None
