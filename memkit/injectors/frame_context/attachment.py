"""How `FrameContext` is attached to a stock Wan: context tokens are added after the patch embedding and removed last.

Everything is done by hooks in the model's own forward: on the rotary embedding, the patch embedding, the timesteps, the
self-attention of each block (for cameras) and the output. The state of a forward pass travels in its `Carrier`, so a
block that gradient checkpointing recomputes finds the forward pass that it first ran in. P are the predicted frames.

With a context, the modulation is per token, [B,N,6,D], as it is for Wan2.2 TI2V: stock Wan expands it in each block,
which needs much memory for long sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from inspect import signature
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTimeTextImageEmbedding
from torch import Tensor, nn

from memkit.backbones.adapters.choice import adapter_of
from memkit.backbones.attached import Attached
from memkit.backbones.base import FRAME_CONTEXT, Carrier
from memkit.backbones.protocol import Grid, Model
from memkit.backbones.refusals import refuse_cache
from memkit.backbones.rotary import checked_positions
from memkit.backbones.running import Running
from memkit.checks import check_finite, check_list, check_poses, check_scale, check_within
from memkit.errors import InputError, MemkitError
from memkit.flow import NUM_TRAIN_TIMESTEPS
from memkit.injectors.frame_context.chunk import ChunkInputs, FrameChunk, Pass, check_fit
from memkit.injectors.frame_context.config import FrameContextConfig
from memkit.injectors.frame_context.packing import Plan, plan_frames, pool_frames, pool_table

_EMBEDDER_ARGUMENTS = tuple(signature(WanTimeTextImageEmbedding.forward).parameters)[1:]


class AttachedFrames(Attached):
    """Frame context attached to transformers until ``detach()`` or the end of the ``with`` statement.

    While attached, a transformer runs only inside `chunk`.
    """

    kind = FRAME_CONTEXT
    places_frames = True

    def __init__(
        self,
        owner: object,
        models: Sequence[Model],
        config: FrameContextConfig,
        embed: Callable[[Tensor, Plan, nn.Module], Tensor],
        cameras: nn.ModuleDict,
    ) -> None:
        self._config, self._embed, self._cameras = config, embed, cameras
        self.running: Running[FrameChunk] = Running(self.kind, self.begin_chunk)
        self._pass: Pass | None = None  # the current forward pass
        self._fresh = False  # whether _pass belongs to a forward pass that has not reached the rotary embedding yet
        super().__init__(owner, models)

    def install(self, model: Model) -> None:
        """Register hooks on the model and its submodules, in the order in which a forward pass calls them."""
        adapter, embedder = adapter_of(model), model.condition_embedder
        self.keep(
            model.register_forward_pre_hook(self._before, with_kwargs=True),
            model.patch_embedding.register_forward_hook(self._prepend_context),
            embedder.register_forward_pre_hook(self._timesteps, with_kwargs=True),
            *(
                adapter.attention(block).register_forward_pre_hook(partial(self._add_cameras, i))
                for i, block in enumerate(adapter.blocks(model))
            ),
            model.proj_out.register_forward_hook(self._remove_context),
            model.register_forward_hook(self._after, with_kwargs=True),
        )

    def chunk(
        self,
        latents: Tensor | None,
        *,
        positions: Sequence[int] | None = None,
        context_positions: Sequence[int] | None = None,
        cameras: Tensor | None = None,
        context_cameras: Tensor | None = None,
        annotation: str = "exact",
        context_timesteps: Tensor | None = None,
        history_guidance: float = 1.0,
        history_noise: Tensor | None = None,
    ) -> FrameChunk:
        """A context manager in which the transformers generate the frames P with this context.

        Args:
            latents: latents of the context frames [B or 1,C,N,H,W], oldest frame first; None for the stock model
                without context.
            positions: positions of the frames of P; by default 0…F−1.
            context_positions: positions of the context frames, which may be negative or have gaps; by default −N…−1. A
                packed token gets the average of the rotary tables over the cells that it stands for.
            cameras: poses of P [B or 1,F,12], also without context; see `memkit.cameras.relative_pose_vectors`.
            context_cameras: poses of the context frames [B or 1,N,12], relative to the same camera. A packed token gets
                the average of its frames' encoded poses.
            annotation: kind of the poses, one of the config's ``cameras``.
            context_timesteps: timestep of each context frame [B or 1,N] in [0, 1000], which states how noisy
                ``latents`` are (DFoT trains with independent noise per frame); by default 0, clean. A packed token gets
                the average of its frames (our reading; FramePack has clean frames only).
            history_guidance: ω of v(∅) + ω·(v(H) − v(∅)), as in DFoT (arXiv 2502.06764). 1 is v(H) and 0 is v(∅), in
                one forward pass; any other ω takes two. It applies to both the conditional and the unconditional call
                of classifier-free guidance.
            history_noise: DFoT's ∅, pure noise of the shape of ``latents``, which stands in place of the context at
                timestep 1000. By default ∅ is no context at all, which costs less and is what a model sees that was
                trained without context at times. The two differ, by more than the guidance itself.

        Raises:
            InputError: there is no encoder for ``annotation``; positions, poses or timesteps do not fit the number of
                frames; timesteps are out of range; or latents, poses or ``history_guidance`` are not finite.
        """
        config = self._config
        if (cameras is not None or context_cameras is not None) and annotation not in config.cameras:
            raise InputError(f"There is no encoder for {annotation!r} poses; choose one of {config.cameras}.")
        check_scale("history_guidance", history_guidance)
        if latents is not None:
            check_finite("The context", latents, "[B, C, N, H, W]")
        for name, poses in (("cameras", cameras), ("context_cameras", context_cameras)):
            if poses is not None:
                check_poses(name, poses)
        if context_timesteps is not None:
            check_within("context_timesteps", context_timesteps, 0, NUM_TRAIN_TIMESTEPS, "[B, N]")
        if history_noise is not None:
            check_finite("history_noise", history_noise, "[B, C, N, H, W]")
            if latents is None or history_noise.shape != latents.shape:
                raise InputError(
                    f"history_noise is {list(history_noise.shape)}; give it the shape of the context's latents."
                )
        frames = 0 if latents is None else latents.shape[2]
        at = range(-frames, 0) if context_positions is None else check_list("positions", context_positions, "frames")
        counts = [x.shape[1] for x in (context_cameras, context_timesteps) if x is not None]
        if any(n != frames for n in (len(at), *counts)):
            raise InputError(
                f"The context has {frames} frames; give one position and, if any, one pose and one timestep for each."
            )
        plan = plan_frames(frames, config.packing, config.keep_start)
        kept = list(plan.kept)
        at = checked_positions(at) if frames else ()
        inputs = ChunkInputs(
            context=None if latents is None or not frames else latents[:, :, kept],
            plan=plan.of_kept(),
            positions=None if positions is None else checked_positions(positions),
            context_positions=tuple(at[i] for i in kept),
            poses=cameras,
            context_poses=None if context_cameras is None else context_cameras[:, kept],
            kind=annotation,
            timesteps=None if context_timesteps is None else context_timesteps[:, kept],
            guidance=history_guidance,
            noise=None if history_noise is None else history_noise[:, :, kept],
        )
        return FrameChunk(self.running, inputs, plan.left_out)

    # -- around the model ----------------------------------------------------------------------------------------------

    def _before(self, model: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        inputs = self.running.current().inputs
        named = adapter_of(model).arguments(args, kwargs)
        x, t = named["hidden_states"], named["timestep"]
        check_fit(inputs, x)
        _, down, across = self._config.patch_size
        height, width = x.shape[3] // down, x.shape[4] // across
        if inputs.noise is not None and inputs.guidance == 0:
            inputs = inputs.without()
        with_context = inputs.context is not None and (inputs.guidance != 0 or inputs.noise is not None)
        if with_context and inputs.guidance not in (0, 1):
            refuse_cache(model, "history guidance runs two forward passes in one, which the cache would take for steps")
        self._pass = Pass(inputs, inputs.plan.tokens(height, width) if with_context else ())
        self._fresh = True
        if not with_context:
            return None
        timestep = (t[:, None] if t.ndim == 1 else t).expand(x.shape[0], x.shape[2] * height * width)
        return (), {**named, "timestep": timestep}  # without context: hooks for conditioning frames may change it

    def _after(self, model: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        """History guidance: a second forward pass with the same arguments, without the context or with noise in it."""
        running = self._current()
        omega, noisy = running.inputs.guidance, running.inputs.noise is not None
        if not running.counts or omega in (0, 1):
            return None
        empty = replace(running, inputs=running.inputs.without()) if noisy else replace(running, counts=())
        self._pass, self._fresh = empty, True
        try:
            without = model.forward(*args, **kwargs)[
                0
            ]  # not through the hooks: these arguments have been changed already
        finally:
            self._pass = running
        guided = without + omega * (output[0] - without)
        return (guided,) if isinstance(output, tuple) else type(output)(sample=guided)

    def _current(self) -> Pass:
        if self._pass is None:
            raise MemkitError("A submodule of a transformer with frame context ran by itself; call the transformer.")
        return self._pass

    # -- hooks of the submodules, in the order in which a forward pass calls them --------------------------------------

    def rotary(self, model: Model, grid: Grid | None, carrier: Carrier) -> Carrier:
        """Rotary tables of the context, followed by those of P."""
        running, adapter = self._current(), adapter_of(model)
        assert grid is not None
        if running.counts and running.inputs.guidance not in (0, 1) and not self._fresh:
            raise MemkitError(
                "The transformer's forward was called without its hooks (as memory guidance with a scale does), so "
                "history guidance would be ignored; use one guidance or the other."
            )
        self._fresh = False
        processor = adapter.attention(adapter.blocks(model)[0]).processor
        if running.counts and getattr(processor, "positioning", None) is not None:
            raise MemkitError(
                "The transformer has camera positions attached, which context frames do not have; detach one of them."
            )
        inputs = running.inputs
        tables = carrier.rotary if inputs.positions is None else adapter.rotary_at(model, inputs.positions, grid)
        if running.counts:
            context = adapter.rotary_at(model, inputs.context_positions, grid)
            context = [pool_table(table, inputs.plan, grid.height, grid.width) for table in context]
            tables = [torch.cat(pair, dim=1) for pair in zip(context, tables, strict=True)]
        return carrier._replace(cos=tables[0], sin=tables[1]).with_state(self.key, running)

    def _prepend_context(self, patch_embedding: nn.Module, args: tuple[Tensor], tokens: Tensor) -> Tensor | None:
        """Prepend the N tokens of the context: from [B,D,F,h,w] to [B,D,1,1,N + F·h·w], which the model flattens."""
        running = self._current()
        if not running.counts:
            return None
        x, inputs = args[0], running.inputs
        assert inputs.context is not None
        _, down, across = self._config.patch_size
        height, width = x.shape[3] // down * down, x.shape[4] // across * across
        context = self._embed(inputs.context[..., :height, :width].to(x), inputs.plan, patch_embedding)
        context = context.mT.to(tokens.dtype).expand(x.shape[0], -1, -1)
        return torch.cat([context, tokens.flatten(2)], dim=2)[:, :, None, None]

    def _timesteps(self, _embedder: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict] | None:
        """Timesteps of the context, followed by those of P, one per token."""
        running = self._current()
        if not running.counts:
            return None
        named = {**dict(zip(_EMBEDDER_ARGUMENTS, args, strict=False)), **kwargs}
        predicted = named["timestep"].unflatten(0, (-1, named["timestep_seq_len"]))
        context = predicted.new_zeros(len(predicted), sum(running.counts))
        if (per_frame := running.inputs.timesteps) is not None:
            pooled = pool_frames(per_frame.float(), running.inputs.plan)
            context = _to_tokens(pooled, running.counts).to(predicted.device).expand_as(context)
        timestep = torch.cat([context, predicted], dim=1)
        return (), {**named, "timestep": timestep.flatten(), "timestep_seq_len": timestep.shape[1]}

    def _add_cameras(self, block: int, _attn: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        running: Pass = args[3].state(self.key)
        inputs, n, hidden = running.inputs, sum(running.counts), args[0]
        context, predicted = hidden[:, :n], hidden[:, n:]
        if inputs.poses is None and (not n or inputs.context_poses is None):
            return None
        encoder = self._cameras[inputs.kind]
        if inputs.poses is not None:
            per_frame = predicted.shape[1] // inputs.poses.shape[1]
            added = encoder(inputs.poses.to(hidden.device), block)
            predicted = predicted + added.type_as(hidden).repeat_interleave(per_frame, dim=1)
        if n and inputs.context_poses is not None:
            added = pool_frames(encoder(inputs.context_poses.to(hidden.device), block), inputs.plan)
            context = context + _to_tokens(added, running.counts).type_as(hidden)
        return torch.cat([context, predicted], dim=1), *args[1:]

    def _remove_context(self, _proj_out: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
        n = sum(self._current().counts)
        return output[:, n:] if n else None


def _to_tokens(x: Tensor, counts: tuple[int, ...]) -> Tensor:
    """Repeat values per group [B,G,…] for the tokens of each group [B,N,…]."""
    return x.repeat_interleave(torch.tensor(counts, device=x.device), dim=1, output_size=sum(counts))
