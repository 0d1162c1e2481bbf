"""`FrameVisibility`: which latent frames of a sequence see which, in place of full attention.

Sliding windows as in FreeLong (arXiv 2407.19918), a causal order as in AR-Diffusion (arXiv 2503.07418), and windows
that shift from layer to layer as in StreamDiT (arXiv 2507.03745). No mask is built: consecutive frames that see the
same frames, and are seen by the same, are one group, and each group is one attention call.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool
from torch import Tensor

from memkit.backbones.attached import Attached
from memkit.backbones.base import FRAME_VISIBILITY, KV_CACHE, Carrier, Grouping, Groups
from memkit.backbones.protocol import Grid, Model
from memkit.backbones.refusals import refuse_other_tokens
from memkit.backbones.unwrap import Attachable, transformers_of
from memkit.checks import MOST_FRAMES, check_whole, shown
from memkit.errors import InputError

Visible = Callable[[int], Bool[Tensor, "frames frames"]]
"""The table for a number of frames: True where a frame (row) sees a frame (column)."""


class FrameVisibility:
    """Self-attention of each frame to the frames that it sees; what other attachments add is seen by all.

        with FrameVisibility(sliding_window(5)).attach(transformer):
            velocity = transformer(latents, t, text).sample

    With several tables, layers take turns. Where every frame sees every frame, the outputs are those of the model, bit
    for bit. A KV cache, which takes the keys of all frames at once, is refused; give no recorder to other attachments,
    and compile blocks (``compile_repeated_blocks``), not the whole model, whose graph cannot depend on the tables.
    """

    def __init__(self, *visible: Visible) -> None:
        if not visible or not all(callable(each) for each in visible):
            raise InputError(f"The tables are {shown(visible)}; give functions such as sliding_window(5).")
        self.visible = visible

    def attach(self, *models: Attachable) -> Attached:
        """Attach to transformers, or to all experts of a pipeline or backbone, until ``detach()`` or the end of the
        ``with`` statement.

        Raises `InputError` where there is no transformer, one is repeated, or cannot have it beside what it has.
        """
        return _AttachedVisibility(self, transformers_of(models, FRAME_VISIBILITY))


def sliding_window(size: int) -> Visible:
    """Each frame sees ``size`` frames around it; at the ends, the window slides so that it stays as long (FreeLong)."""
    check_whole("size", size, 1, MOST_FRAMES)

    def visible(frames: int) -> Bool[Tensor, "frames frames"]:
        first = ((at := torch.arange(frames)) - size // 2).clamp(max=frames - size).clamp(min=0)[:, None]
        return (first <= at) & (at < first + size)

    return visible


def shifted_blocks(size: int, shift: int = 0) -> Visible:
    """Blocks of ``size`` frames that see themselves alone, from ``shift`` on; both ends are one block (StreamDiT)."""
    check_whole("size", size, 1, MOST_FRAMES)

    def visible(frames: int) -> Bool[Tensor, "frames frames"]:
        block = (torch.arange(frames) - shift) % max(frames, size) // size
        return block[:, None] == block

    return visible


def groups_of(table: Bool[Tensor, "frames frames"], tokens: int) -> Groups:
    """Runs of frames of so many ``tokens`` that see the same frames and are seen by the same."""
    if not table.any(1).all():
        raise InputError("A frame sees no frame, not even itself; give each one at least one to attend to.")
    same = (table[1:] == table[:-1]).all(1) & (table[:, 1:] == table[:, :-1]).all(0)
    edges = [0, *(i + 1 for i, merged in enumerate(same.tolist()) if not merged), len(table)]
    spans = {f"frames {a}": slice(a * tokens, b * tokens) for a, b in zip(edges, edges[1:], strict=False)}
    seen = table[edges[:-1]][:, edges[:-1]]
    return Groups(
        spans,
        {
            name: tuple(n for n, on in zip(spans, row, strict=True) if on)
            for name, row in zip(spans, seen.tolist(), strict=True)
        },
    )


class _AttachedVisibility(Attached):
    kind = FRAME_VISIBILITY
    needs_frames = True
    owner: FrameVisibility

    def part(self, model: Model, layer: int) -> Grouping:
        return _Visible(self.key, layer % len(self.owner.visible))

    def rotary(self, model: Model, grid: Grid | None, carrier: Carrier) -> Carrier:
        """Add the groups of this forward pass, one partition per table."""
        assert grid is not None
        tables = [each(grid.frames) for each in self.owner.visible]
        return carrier.with_state(self.key, (grid, [groups_of(table, grid.tokens_per_frame) for table in tables]))


class _Visible(Grouping):
    """The visibility of one layer."""

    def __init__(self, key: str, number: int) -> None:
        self.key, self.number = key, number

    def split(self, carrier: Carrier) -> Groups:
        """The groups of this forward pass. Raises `InputError` where there are other tokens, or a cache."""
        grid, groups = carrier.state(self.key)
        found = grid.frames * grid.tokens_per_frame if carrier.cos is None else carrier.cos.shape[1]
        refuse_other_tokens(FRAME_VISIBILITY, grid.frames, grid.tokens_per_frame, found, carrier)
        if KV_CACHE in carrier.states:
            raise InputError("A KV cache takes the keys of all frames at once; detach it, or frame visibility.")
        return groups[self.number]
