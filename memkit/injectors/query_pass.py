"""How `QueryLayers` runs on a stock Wan: one pass for the context, which ends early, and one for query and prediction.

All of it is hooks. What a pass needs travels with its rotary tables, which the model hands to every block: so a block
that gradient checkpointing runs again finds the pass it was run in.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.utils.hooks import RemovableHandle

from memkit.backbones.base import VIDEO, Table
from memkit.backbones.wan_attention import Attachment, GroupedSelfAttention
from memkit.errors import InputError, MemkitError
from memkit.positions import checked_positions, rotary_at

if TYPE_CHECKING:
    from memkit.injectors.query_layers import QueryLayers
    from memkit.injectors.query_monitor import QueryMonitor, QueryRow

QUERY, CONTEXT = "query", "context"
_ARGUMENTS = tuple(signature(WanTransformer3DModel.forward).parameters)[1:]
KeysAndValues = tuple[Tensor, Tensor]


@dataclass
class Pass:
    """One forward of a transformer: of the context, which leaves its keys and values in ``kept``, or of Q and P."""

    positions: tuple[int, ...]
    poses: Tensor | None
    kind: str
    of_context: bool
    context: list[KeysAndValues] = field(default_factory=list)
    """Of each query layer, for Q to see."""
    kept: dict[int, KeysAndValues] = field(default_factory=dict)
    row: QueryRow | None = None
    """Where a monitor wants the shares of the context."""


class _Rotary(tuple):
    """The (cos, sin) of a forward, and its pass."""

    of: Pass


class _ContextDone(Exception):
    """The last query layer has the keys and values of the context: nothing after them is needed."""


class QueryChunk:
    """The context that the transformers see while it is open; made by `QueryAttachment.chunk`.

    ``runs`` counts the passes of the context: one for each text and transformer where gradients are off and C is
    clean, else one a call.
    """

    def __init__(self, attachment: QueryAttachment, given: _Given) -> None:
        self.given = given
        self.runs = 0
        self._attachment = attachment
        self._kept: list[tuple[Any, Tensor, list[KeysAndValues]]] = []

    def __enter__(self) -> QueryChunk:
        if self._attachment.open is not None:
            raise MemkitError("The transformers are in a chunk already; chunks do not nest.")
        self._attachment.open = self
        return self

    def __exit__(self, *_: object) -> None:
        self._attachment.open = None
        self._kept.clear()

    def context(self, model: Any, named: dict[str, Any]) -> list[KeysAndValues]:
        """Keys and values of the context in each query layer, for this text and, if it is shared, this timestep."""
        latents, x = self.given.context, named["hidden_states"]
        if latents is None:
            return []
        text, clean = named["encoder_hidden_states"], self._attachment.query.config.context_time == "clean"
        if clean and not torch.is_grad_enabled():
            for known, words, context in self._kept:
                if known is model and words is text:
                    return context
        self.runs += 1
        if (
            latents.shape[0] not in (1, x.shape[0])
            or latents.shape[1] != x.shape[1]
            or latents.shape[3:] != x.shape[3:]
        ):
            raise InputError(
                f"The context has latents {list(latents.shape)}, the prediction {list(x.shape)}; "
                "give one row or one a sample, of the same channels and size."
            )
        t = named["timestep"]
        one = (t if t.ndim == 1 else t[:, -1]).expand(x.shape[0])
        given = {"hidden_states": latents.to(x).expand(x.shape[0], *latents.shape[1:])}
        given["timestep"] = torch.zeros_like(one) if clean else one
        context = self._attachment.run_context(model, {**named, **given}, self.given)
        if clean and not torch.is_grad_enabled():
            self._kept.append((model, text, context))
        return context


@dataclass(frozen=True)
class _Given:
    """The arguments of a chunk."""

    context: Tensor | None
    query: Tensor | None
    positions: tuple[int, ...] | None
    context_positions: tuple[int, ...]
    poses: Tensor | None
    context_poses: Tensor | None
    kind: str
    monitor: QueryMonitor | None


class QueryAttachment:
    """Query layers on some transformers until ``detach`` or the end of the ``with``; then each model is what it was."""

    def __init__(self, query: QueryLayers, models: Sequence[WanTransformer3DModel]) -> None:
        for model in models:
            processor = model.blocks[0].attn1.processor
            if isinstance(processor, GroupedSelfAttention) and any(isinstance(i, _Layer) for i in processor.injections):
                raise InputError("The transformer has query layers attached; detach those first.")
        self.query = query
        self.open: QueryChunk | None = None
        self.running: Pass | None = None
        self._next: Pass | None = None
        self._attachment = Attachment(models, lambda _model, layer: _Layer(self, layer))
        self._hooks: list[RemovableHandle] = []
        for model in models:
            self._hooks.append(model.register_forward_pre_hook(self._before, with_kwargs=True))
            self._hooks.append(model.register_forward_hook(self._after))
            self._hooks.append(model.rope.register_forward_hook(self._rotary))
            for i, block in enumerate(model.blocks):
                self._hooks.append(block.register_forward_pre_hook(self._enter_block, prepend=True))
                self._hooks.append(block.attn1.register_forward_pre_hook(self._add_cameras(i)))
                if i < query.config.layers:
                    self._hooks.append(block.attn1.register_forward_hook(_pass_unchanged))

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
            cameras: poses of P's frames [B or 1,F,12], which Q's take too; see `pose_numbers`.
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
        given = _Given(
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

    def run_context(self, model: Any, named: dict[str, Any], given: _Given) -> list[KeysAndValues]:
        """The context through the query layers, by the model's own forward, which ends when they are done."""
        depth = model.config.patch_size[0]
        if depth != 1:
            raise InputError(f"This model patches {depth} latent frames together; query layers are for one at a time.")
        made = Pass(given.context_positions, given.context_poses, given.kind, of_context=True)
        last = self.query.config.layers - 1
        self._next = made
        try:
            with contextlib.suppress(_ContextDone), _leaving(model.blocks[last], made.kept, last):
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
        named = {**dict(zip(_ARGUMENTS, args, strict=False)), **kwargs}
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
        """Without Q's frames."""
        made = output[0]
        made = made[:, :, made.shape[2] // 2 :]
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
            a_frame = hidden.shape[1] // running.poses.shape[1]
            added = self.query.camera_tokens(running.poses.to(hidden.device), running.kind, block, a_frame)
            assert added is not None
            return hidden + added.type_as(hidden), *args[1:]

        return hook


@contextlib.contextmanager
def _leaving(block: Any, kept: dict[int, KeysAndValues], layer: int) -> Iterator[None]:
    """Inside, a sharded block ends as any block does where the pass of the context leaves it.

    FSDP gathers a block's weights for the backward pass when the gradients of its outputs come, and lets them go after
    its forward. So the keys and values are made its outputs, and the pass is left behind FSDP's own hook.
    """
    if not isinstance(block, FSDPModule):
        yield
        return
    stock = block.forward

    def forward(*args: Any, **kwargs: Any) -> KeysAndValues:
        with contextlib.suppress(_ContextDone):
            stock(*args, **kwargs)
        return kept[layer]

    def leave(_block: nn.Module, _args: tuple, output: KeysAndValues) -> None:
        kept[layer] = output
        raise _ContextDone

    block.forward, hook = forward, block.register_forward_hook(leave)
    try:
        yield
    finally:
        hook.remove()
        del block.forward


def _pass_unchanged(_attn: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
    """The context leaves the self-attention as it came: nothing is added to it, not even the projection's bias."""
    return torch.zeros_like(output) if args[3].rotary.of.of_context else None


class _Layer:
    """The injection of one layer."""

    def __init__(self, attachment: QueryAttachment, layer: int) -> None:
        self.attachment = attachment
        self.layer = layer

    def prepare(self, block: nn.Module, hidden: Tensor, temb: Tensor) -> Pass:
        """The pass that the block runs in."""
        assert self.attachment.running is not None
        return self.attachment.running

    def extend(self, table: Table, attn: nn.Module, prepared: Pass) -> str:
        """Split the video in Q and P, and say who sees whom; of the context, only keep what others will see."""
        config = self.attachment.query.config
        if prepared.of_context:
            prepared.kept[self.layer] = table.kv[VIDEO]
            if self.layer == config.layers - 1:
                raise _ContextDone
            table.sees[VIDEO] = ()
            return VIDEO
        half, (k, v), q = table.q[VIDEO].shape[1] // 2, table.kv[VIDEO], table.q[VIDEO]
        table.q |= {QUERY: q[:, :half], VIDEO: q[:, half:]}
        table.kv |= {QUERY: (k[:, :half], v[:, :half]), VIDEO: (k[:, half:], v[:, half:])}
        others = tuple(group for group in table.sees[VIDEO] if group != VIDEO)
        row = (VIDEO,) if config.query_sees_prediction else ()
        row += (QUERY,) if config.query_sees_query else ()
        if self.layer < len(prepared.context):
            table.kv[CONTEXT] = prepared.context[self.layer]
            row += (CONTEXT,)
        table.sees |= {QUERY: (*row, *others), VIDEO: (VIDEO, QUERY, *others)}
        return QUERY

    def finish(self, table: Table, group: str, out: dict[str, Tensor]) -> None:
        """Q and P as one sequence again."""
        if group == QUERY:
            running = self.attachment.running
            assert running is not None
            if running.row is not None:  # others may have extended the table since
                if self.layer < running.row.layers:
                    running.row.record(self.layer, table, QUERY, CONTEXT)
                running.row.follow(self.layer, table, VIDEO, QUERY)
            out[VIDEO] = torch.cat([out.pop(QUERY), out[VIDEO]], dim=1)
