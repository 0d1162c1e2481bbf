"""`FrequencyBlend`: low frequencies of attention to all frames, high ones of attention to near frames.

FreeLong's SpectralBlend temporal attention (arXiv 2407.19918): the same queries, keys and values are
attended twice, globally and in a window, and the outputs are mixed by frequency over time, height and width,

    y = low(y_global) + (y_local − low(y_local)),

before the output projection. Where the window holds all frames, y is the model's own output, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from memkit.backbones.attached import Attached
from memkit.backbones.base import FREQUENCY_BLEND, TEXT, VIDEO, Carrier, Groups, Table
from memkit.backbones.protocol import Grid, Model
from memkit.backbones.refusals import refuse_other_tokens
from memkit.backbones.unwrap import Attachable, transformers_of
from memkit.checks import shown
from memkit.errors import InputError
from memkit.injectors.frame_visibility import Visible, groups_of


class FrequencyBlend:
    """Attention in a window, with the low frequencies of attention to all frames.

        blend = FrequencyBlend(sliding_window(5), LowPass(0.125, 0.125, shape="gaussian"))
        with blend.attach(transformer):
            velocity = transformer(latents, t, text).sample

    Args:
        visible: the frames that each frame sees locally, for a number of frames; see `FrameVisibility`.
        low: maps [..., T, H, W] over the grid of patches to its low frequencies, such as `LowPass`.

    What other attachments add, such as memory tokens, is seen by attention to all frames alone. With torch.compile,
    compile the blocks (``compile_repeated_blocks``): a whole graph cannot depend on the table.
    """

    def __init__(self, visible: Visible, low: Callable[[Tensor], Tensor]) -> None:
        if not callable(visible) or not callable(low):
            raise InputError(f"Give two functions, such as sliding_window(5) and LowPass(), not {shown(visible)}.")
        self.visible, self.low = visible, low

    def attach(self, *models: Attachable) -> Attached:
        """Attach to transformers, or to all experts of a pipeline or backbone, until ``detach()`` or the end of the
        ``with`` statement.

        Raises `InputError` where there is no transformer, one is repeated or has a blend already.
        """
        return _AttachedBlend(self, transformers_of(models, FREQUENCY_BLEND))


class _AttachedBlend(Attached):
    kind = FREQUENCY_BLEND
    needs_frames = True
    owner: FrequencyBlend

    def part(self, model: Model, layer: int) -> _BlendLayer:
        return _BlendLayer(self.owner, self.key)

    def rotary(self, model: Model, grid: Grid | None, carrier: Carrier) -> Carrier:
        assert grid is not None
        groups = groups_of(self.owner.visible(grid.frames), grid.tokens_per_frame)
        return carrier.with_state(self.key, (grid, groups))


class _Local(NamedTuple):
    """One forward pass: its grid, its local groups, and their names in the order of their tokens."""

    grid: Grid
    groups: Groups
    names: list[str]


class _BlendLayer:
    """The injection of one layer."""

    def __init__(self, owner: FrequencyBlend, key: str) -> None:
        self.owner, self.key = owner, key

    def prepare(self, block: nn.Module, hidden: Tensor, temb: object, carrier: Carrier) -> _Local:
        """The grid. Raises `InputError` where the sequence holds other tokens than those of its frames."""
        grid, groups = carrier.state(self.key)
        refuse_other_tokens(FREQUENCY_BLEND, grid.frames, grid.tokens_per_frame, hidden.shape[1], carrier)
        return _Local(grid, groups, [])

    def extend(self, table: Table, attn: nn.Module, prepared: _Local) -> str:
        """Add each group of frames a second time, with the keys that it sees locally."""
        _, groups, names = prepared
        q, (k, v), others = table.q[VIDEO], table.kv[VIDEO], (TEXT,) if TEXT in table.q else ()
        for name, span in groups.spans.items():
            table.kv[f"local {name}"] = k[:, span], v[:, span]
        for name, span in groups.spans.items():
            names.append(f"local {name}")
            table.q[names[-1]] = q[:, span]
            table.sees[names[-1]] = (*(f"local {seen}" for seen in groups.sees[name]), *others)
        return VIDEO

    def finish(self, table: Table, group: str, out: dict[str, Tensor], prepared: _Local) -> None:
        """Blend the two outputs [B,S,H,D]."""
        grid, _, names = prepared
        local = torch.cat([out.pop(name) for name in names], dim=1)
        change = (out[VIDEO] - local).movedim(1, -1).unflatten(-1, (grid.frames, grid.height, grid.width))
        out[VIDEO] = local + self.owner.low(change).flatten(-3).movedim(-1, 1)
