"""How `FrameContext` runs on a stock Wan: the context's tokens go in after the patch embedding and out at the end.

All of it is hooks, at the places of the model's own forward where the tokens of P are made and used: the rotary tables,
the patch embedding, the timesteps, the cameras of each block, the output. What a block needs travels in its `Carrier`,
so one that gradient checkpointing runs again finds the forward that it was run in.

Beside a clean context the model's modulation is one per token, [B,N,6,D], as it is for Wan2.2 TI2V: stock Wan expands
it in each block, and that is memory to reckon with where the sequence is long.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from inspect import signature
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanTimeTextImageEmbedding
from torch import Tensor, nn

from memkit.backbones.attached import Attached, Running
from memkit.backbones.base import Carrier
from memkit.backbones.rotary import checked_positions, rotary_at
from memkit.backbones.wan_call import call_arguments
from memkit.errors import InputError, MemkitError
from memkit.injectors.frame_context.chunk import ChunkInputs, FrameChunk, Pass, check_fit
from memkit.injectors.frame_context.config import FrameContextConfig
from memkit.injectors.frame_context.packing import Plan, plan_frames, pool_frames, pool_table

_OF_EMBEDDER = tuple(signature(WanTimeTextImageEmbedding.forward).parameters)[1:]


class AttachedFrames(Attached):
    """Frame context on some transformers until ``detach`` or the end of the ``with``.

    Attached, a transformer runs inside `chunk` only.
    """

    kind = "frame context"
    places_frames = True

    def __init__(
        self,
        owner: object,
        models: Sequence[WanTransformer3DModel],
        config: FrameContextConfig,
        embed: Callable[[Tensor, Plan, nn.Module], Tensor],
        cameras: nn.ModuleDict,
    ) -> None:
        self._config, self._embed, self._cameras = config, embed, cameras
        self.running: Running[FrameChunk] = Running(self.kind)
        self._pass: Pass | None = None  # of the forward that runs
        self._fresh = False  # _pass was made for the forward that comes
        super().__init__(owner, models)

    def install(self, model: WanTransformer3DModel) -> None:
        """Hooks of the model and its parts, in the order in which a forward calls them."""
        embedder = model.condition_embedder
        self.keep(
            model.register_forward_pre_hook(self._before, with_kwargs=True),
            model.patch_embedding.register_forward_hook(self._put_in_front),
            embedder.register_forward_pre_hook(self._timesteps, with_kwargs=True),
            *(
                block.attn1.register_forward_pre_hook(partial(self._add_cameras, i))
                for i, block in enumerate(model.blocks)
            ),
            model.proj_out.register_forward_hook(self._cut_off),
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
    ) -> FrameChunk:
        """A ``with`` in which the transformers generate the frames of P beside this context.

        Args:
            latents: context [B or 1,C,F,H,W], oldest frame first, or None, which leaves the stock model.
            positions: of P's frames; 0…F−1 without.
            context_positions: of the context's frames, negative or with gaps; −n…−1 without. A packed token has the
                average of the rotary tables over the cells that it stands for.
            cameras: poses of P's frames [B or 1,F,12]; see
                `memkit.cameras.relative_pose_vectors`. They need no context.
            context_cameras: poses of the context's frames, relative to the same camera. A packed token has the
                average of what its frames' poses add.
            annotation: the kind of the poses, one of the config's ``cameras``.
            context_timesteps: [B or 1,F], 0…1000: how noisy ``latents`` are, frame by frame, as they come (DFoT
                trains with noise of its own on each frame). Clean, 0, without. A packed token has the average of its
                frames' (our reading; FramePack's are clean).
            history_guidance: ω of v(∅) + ω·(v(H) − v(∅)), DFoT's rule (arXiv 2502.06764), with no context at all for
                ∅, where DFoT's is one of pure noise. 1 is v(H), 0 is v(∅), each one forward; any other ω is two. Text
                guidance goes around it: each of its branches is guided so.

        Raises:
            InputError: an annotation that there is no encoder for; positions, poses or timesteps that do not fit the
                frames; or a guidance that is not finite.
        """
        config = self._config
        if (cameras is not None or context_cameras is not None) and annotation not in config.cameras:
            raise InputError(f"There is no encoder for {annotation!r} poses; there are {config.cameras}.")
        if not math.isfinite(history_guidance):
            raise InputError(f"history_guidance must be a finite number, not {history_guidance!r}.")
        frames = 0 if latents is None else latents.shape[2]
        at = range(-frames, 0) if context_positions is None else context_positions
        of_frames = [x.shape[1] for x in (context_cameras, context_timesteps) if x is not None]
        if any(n != frames for n in (len(at), *of_frames)):
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
        )
        return FrameChunk(self.running, inputs, plan.left_out)

    # -- around the model ----------------------------------------------------------------------------------------------

    def _before(self, model: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        inputs = self.running.current().inputs
        named = call_arguments(args, kwargs)
        x, t = named["hidden_states"], named["timestep"]
        check_fit(inputs, x)
        _, down, across = model.config.patch_size
        height, width = x.shape[3] // down, x.shape[4] // across
        shown = inputs.context is not None and inputs.guidance != 0
        self._pass = Pass(inputs, inputs.plan.tokens(height, width) if shown else ())
        self._fresh = True
        if not shown:
            return None
        own = (t[:, None] if t.ndim == 1 else t).expand(x.shape[0], x.shape[2] * height * width)
        return (), {**named, "timestep": own}  # the context's come later: conditioning frames may write here too

    def _after(self, model: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        """History guidance: the same call once more, without the context."""
        running = self._current()
        omega = running.inputs.guidance
        if not running.counts or omega == 1:
            return None
        self._pass, self._fresh = replace(running, counts=()), True
        try:
            without = model.forward(*args, **kwargs)[0]  # past the hooks, which have been at these arguments
        finally:
            self._pass = running
        guided = without + omega * (output[0] - without)
        return (guided,) if isinstance(output, tuple) else type(output)(sample=guided)

    def _current(self) -> Pass:
        if self._pass is None:
            raise MemkitError("A part of a transformer with frame context ran by itself; call the transformer.")
        return self._pass

    # -- hooks of the parts, in the order in which a forward calls them ------------------------------------------------

    def rotary(self, model: WanTransformer3DModel, latents: Tensor, carrier: Carrier) -> Carrier:
        """The tables of the context before those of P."""
        running = self._current()
        if running.counts and running.inputs.guidance != 1 and not self._fresh:
            raise MemkitError(
                "The transformer's forward was run again past its hooks (guided memory with a scale does so), and "
                "history guidance would be lost; use one guidance or the other."
            )
        self._fresh = False
        if running.counts and getattr(model.blocks[0].attn1.processor, "positioning", None) is not None:
            raise MemkitError(
                "The transformer has camera positions attached, which the frames of a context do not have; detach "
                "them, or the frame context."
            )
        inputs, rope = running.inputs, model.rope
        height, width = latents.shape[3] // rope.patch_size[1], latents.shape[4] // rope.patch_size[2]
        tables = carrier.rotary if inputs.positions is None else rotary_at(rope, inputs.positions, height, width)
        if running.counts:
            past = rotary_at(rope, inputs.context_positions, height, width)
            past = [pool_table(table, inputs.plan, height, width) for table in past]
            tables = [torch.cat(pair, dim=1) for pair in zip(past, tables, strict=True)]
        return carrier._replace(cos=tables[0], sin=tables[1]).with_state(self.key, running)

    def _put_in_front(self, patch_embedding: nn.Module, args: tuple[Tensor], tokens: Tensor) -> Tensor | None:
        """[B,D,F,h,w] of P to [B,D,1,1,N + F·h·w], which the model flattens all the same."""
        running = self._current()
        if not running.counts:
            return None
        x, inputs = args[0], running.inputs
        assert inputs.context is not None
        _, down, across = self._config.patch_size
        height, width = x.shape[3] // down * down, x.shape[4] // across * across
        past = self._embed(inputs.context[..., :height, :width].to(x), inputs.plan, patch_embedding)
        past = past.mT.to(tokens.dtype).expand(x.shape[0], -1, -1)
        return torch.cat([past, tokens.flatten(2)], dim=2)[:, :, None, None]

    def _timesteps(self, _embedder: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict] | None:
        """The context's, before those of P, one per token."""
        running = self._current()
        if not running.counts:
            return None
        named = {**dict(zip(_OF_EMBEDDER, args, strict=False)), **kwargs}
        own = named["timestep"].unflatten(0, (-1, named["timestep_seq_len"]))
        past = own.new_zeros(len(own), sum(running.counts))
        if (of_frames := running.inputs.timesteps) is not None:
            pooled = pool_frames(of_frames.float(), running.inputs.plan)
            past = _to_tokens(pooled, running.counts).to(own.device).expand_as(past)
        both = torch.cat([past, own], dim=1)
        return (), {**named, "timestep": both.flatten(), "timestep_seq_len": both.shape[1]}

    def _add_cameras(self, block: int, _attn: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        running: Pass = args[3].state(self.key)
        inputs, n, hidden = running.inputs, sum(running.counts), args[0]
        past, own = hidden[:, :n], hidden[:, n:]
        if inputs.poses is None and (not n or inputs.context_poses is None):
            return None
        encoder = self._cameras[inputs.kind]
        if inputs.poses is not None:
            per_frame = own.shape[1] // inputs.poses.shape[1]
            added = encoder(inputs.poses.to(hidden.device), block)
            own = own + added.type_as(hidden).repeat_interleave(per_frame, dim=1)
        if n and inputs.context_poses is not None:
            added = pool_frames(encoder(inputs.context_poses.to(hidden.device), block), inputs.plan)
            past = past + _to_tokens(added, running.counts).type_as(hidden)
        return torch.cat([past, own], dim=1), *args[1:]

    def _cut_off(self, _proj_out: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
        n = sum(self._current().counts)
        return output[:, n:] if n else None


def _to_tokens(x: Tensor, counts: tuple[int, ...]) -> Tensor:
    """Values of groups [B,G,…] to those of their tokens [B,N,…]."""
    return x.repeat_interleave(torch.tensor(counts, device=x.device), dim=1, output_size=sum(counts))
