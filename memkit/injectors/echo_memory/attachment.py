"""How an `EchoMemory` is attached to a stock Wan: hooks around the model, its patch embedding and its blocks.

The action step changes the input of a block. The recurrence comes between the two attentions of a block, where the
residual is not an argument of any module: the input of ``norm2`` gets what is added, and so does the output of
``attn2``, so that both x and what cross-attention reads of it have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from memkit.backbones.adapters.choice import adapter_of
from memkit.backbones.adapters.wan import WanAdapter
from memkit.backbones.attached import Attached
from memkit.backbones.base import Carrier
from memkit.backbones.protocol import BackboneAdapter, Grid, Model
from memkit.backbones.running import Running
from memkit.backbones.samples import several_videos
from memkit.checks import check_finite
from memkit.errors import InputError
from memkit.injectors.echo_memory.config import EchoConfig
from memkit.injectors.echo_memory.packing import pack, reweigh

KIND = "Echo-Memory"


class AttachedEcho(Attached):
    """Echo-Memory attached to transformers until ``detach()`` or the end of the ``with`` statement."""

    kind = KIND
    places_frames = True
    hooks_inside = True
    needs_every_block = True  # the action step of a block that is skipped would be lost

    def __init__(self, owner: object, models: Sequence[Model], config: EchoConfig, blocks: Sequence[nn.Module]) -> None:
        for model in models:
            if type(adapter_of(model)) is not WanAdapter:
                raise InputError(f"Echo-Memory cannot be attached to a {type(model).__name__}: it is for Wan alone.")
        self.config, self._blocks = config, blocks
        self.running: Running[EchoChunk] = Running(self.kind, self.begin_chunk)
        super().__init__(owner, models)

    def chunk(self, poses: Tensor, context: Tensor | None = None, context_poses: Tensor | None = None) -> EchoChunk:
        """A context manager in which the transformers generate the frames of ``poses``.

        Args:
            poses: one row per target latent frame [B or 1,F,12]; see `memkit.cameras.echo_poses`.
            context: latents [B or 1,C,K,H,W] of single frames that were encoded one by one, the oldest first.
            context_poses: their poses [B or 1,K,12].

        Raises:
            InputError: poses or context are not finite, or do not fit each other.
        """
        check_finite("poses", poses, "[B, F, 12]")
        if context is None:
            return EchoChunk(self.running, poses, None)
        if context_poses is None:
            raise InputError("Context frames have poses; give context_poses, one row per frame.")
        check_finite("context", context, "[B, C, K, H, W]")
        check_finite("context_poses", context_poses, "[B, K, 12]")
        if not 0 < context.shape[2] == context_poses.shape[1]:
            raise InputError(
                f"There are {context.shape[2]} context frames and {context_poses.shape[1]} poses; give one pose each."
            )
        context, context_poses = pack(context, context_poses, self.config)
        if self.config.place == "prefix" and context.shape[2] >= poses.shape[1]:
            raise InputError(
                f"There are {context.shape[2]} context frames before {poses.shape[1]} target frames; this layout takes "
                "fewer of the former."
            )
        rows = max(len(poses), len(context_poses))
        both = [context_poses.to(poses).expand(rows, -1, -1), poses.expand(rows, -1, -1)]
        joined = torch.cat(both if self.config.place == "prefix" else both[::-1], dim=1)
        return EchoChunk(self.running, joined, context)

    def install(self, model: Model) -> None:
        """Hooks, in the order in which a forward pass calls them."""
        self.keep(
            model.register_forward_pre_hook(self._before, with_kwargs=True),
            model.patch_embedding.register_forward_hook(self._embedded),
            model.register_forward_hook(self._after),
        )
        for block, added in zip(adapter_of(model).blocks(model), self._blocks, strict=True):
            step = _BlockStep(self.key, adapter_of(model), added)
            self.keep(block.register_forward_pre_hook(step.act, with_kwargs=True))
            if added.block_wise_ssm is not None:
                self.keep(block.norm2.register_forward_pre_hook(step.recur))
                self.keep(block.attn2.register_forward_hook(step.add))

    def rotary(self, model: Model, grid: Grid | None, carrier: Carrier) -> Carrier:
        """Positions of context before the target, and the poses as state."""
        chunk = self.running.current()
        assert grid is not None
        if grid.frames != chunk.poses.shape[1]:
            raise InputError(
                f"There are poses of {chunk.poses.shape[1] - chunk.k} target frames, and latents of "
                f"{grid.frames - chunk.k}; give one pose per latent frame."
            )
        if self.config.place == "prefix" and chunk.k:
            cos, sin = adapter_of(model).rotary_at(model, range(-chunk.k, grid.frames - chunk.k), grid)
            carrier = carrier._replace(cos=cos, sin=sin)
        return carrier.with_state(self.key, chunk)

    def _before(self, model: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        chunk = self.running.current()
        named = adapter_of(model).arguments(args, kwargs)
        x, context = named["hidden_states"], chunk.context
        if len(chunk.poses) not in (1, len(x)):
            raise InputError(
                f"There are poses of {len(chunk.poses)} videos for a batch of {len(x)}; give one for all, or one each."
                + several_videos(len(chunk.poses), len(x), "repeat each {n} times in a row")
            )
        if context is None:
            return None
        if named["timestep"].ndim != 1:
            raise InputError(
                "Context frames have the timestep of the target, one per sample; give no timesteps per token, and no "
                "conditioning frames."
            )
        if len(context) not in (1, len(x)) or context.shape[1] != x.shape[1] or context.shape[3:] != x.shape[3:]:
            raise InputError(
                f"The context has latents {list(context.shape)}, the target {list(x.shape)}; give one context for all "
                "samples or one per sample, of the same channels and size."
            )
        parts = [context.to(x).expand(len(x), -1, -1, -1, -1), x]
        joined = torch.cat(parts if self.config.place == "prefix" else parts[::-1], dim=2)
        return (), {**named, "hidden_states": joined}

    def _embedded(self, _embedding: nn.Module, _args: tuple, tokens: Tensor) -> Tensor | None:
        k = self.running.current().k
        if not self.config.reweigh or not k:
            return None
        target, context = self._spans(tokens.shape[2], k)
        return reweigh(tokens, context, target)

    def _after(self, _model: nn.Module, _args: tuple, output: Any) -> Any:
        k = self.running.current().k
        if not k:
            return None
        out = output[0]
        target, _ = self._spans(out.shape[2], k)
        return (out[:, :, target],) if isinstance(output, tuple) else replace(output, sample=out[:, :, target])

    def _spans(self, frames: int, k: int) -> tuple[slice, slice]:
        """The target and the context among the frames."""
        n = frames - k
        return (slice(k, None), slice(k)) if self.config.place == "prefix" else (slice(n), slice(n, None))


@dataclass(frozen=True)
class EchoChunk:
    """The poses and the context of the calls inside it; created by `AttachedEcho.chunk`."""

    running: Running[EchoChunk]
    poses: Tensor
    """Of all frames of the sequence, in their order [B or 1,K+F,12]."""
    context: Tensor | None

    @property
    def k(self) -> int:
        """Number of context latents."""
        return 0 if self.context is None else self.context.shape[2]

    def __enter__(self) -> EchoChunk:
        self.running.enter(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.running.leave()


class _BlockStep:
    """The hooks of one block."""

    def __init__(self, key: str, adapter: BackboneAdapter, added: Any) -> None:
        self.key, self.adapter, self.added = key, adapter, added
        self._frames = 0  # of the call of the block that runs, and what its recurrence adds
        self._y: Tensor | None = None

    def act(self, _block: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        named = {**dict(zip(self.adapter.block_arguments, args, strict=False)), **kwargs}
        hidden, carrier = named["hidden_states"], self.adapter.carrier_in(named[self.adapter.rotary_argument])
        assert carrier is not None
        poses: Tensor = carrier.state(self.key).poses
        self._frames = poses.shape[1]
        x = hidden.unflatten(1, (self._frames, -1))
        hidden = hidden + self.added.act(x, poses.to(hidden.device)).flatten(1, 2).type_as(hidden)
        return (hidden, *args[1:]) if args else args, kwargs if args else {**kwargs, "hidden_states": hidden}

    def recur(self, _norm: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        x = args[0]
        y, _ = self.added.block_wise_ssm(x.unflatten(1, (self._frames, -1)))
        self._y = y = y.flatten(1, 2).type_as(x)
        return (x + y,)

    def add(self, _attn: nn.Module, _args: tuple, out: Tensor) -> Tensor:
        y, self._y = self._y, None
        assert y is not None
        return out + y.type_as(out)
