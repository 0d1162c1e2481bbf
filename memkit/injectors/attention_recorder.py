"""`AttentionRecorder`: records shares of attention per forward pass, layer and sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.display import counted, described, listed
from memkit.errors import InputError


class AttentionRecorder:
    """Records shares of attention, in [0, 1]; each forward pass of a transformer adds one row.

    Pass a recorder to an injector, which records the following series:

        | injector              | series    | shape per forward pass        | attention of … to …                |
        | `SelfAttentionConcat` | "memory"  | [layers, batch]               | the video to memory tokens         |
        | `KVCache`             | "cache"   | [layers, batch, frames, read] | each frame to each cached frame    |
        | `QueryLayers`         | "context" | [query layers, batch, frames] | the queries to each context frame  |
        |                       | "queries" | [layers, batch]               | the video to the queries, optional |
        | `QueryModule`         | "context" | [layers, batch, frames]       | the queries to each context frame  |

    Shares are exact: means, over tokens and heads, of the softmax that the layer computes. Recording costs as much as
    the recorded attention itself. With classifier-free guidance, Wan runs two forward passes per step, the conditional
    one first. A block that gradient checkpointing recomputes is counted once, and a forward pass that an error
    interrupts leaves no row.

    Args:
        queries: also record the series "queries", which costs as much as the attention of the video.

    Attributes:
        frames: positions of the frames whose attention is recorded, for series per frame; otherwise empty.
        seen: positions of the cached or context frames that are attended to; otherwise empty.
    """

    def __init__(self, queries: bool = False) -> None:
        self.queries = queries
        self.frames: tuple[int, ...] = ()
        self.seen: tuple[int, ...] = ()
        self._rows: list[Row] = []

    def __repr__(self) -> str:
        rows = [row for row in self._rows if row.complete]
        series = ", ".join(dict.fromkeys(name for row in rows for name in row.series))
        of = f"of frames {listed(self.frames)} to {listed(self.seen)}" if self.frames and self.seen else ""
        return described(self, counted(len(rows), "forward pass", "forward passes"), series, of)

    def begin(self, layers: int, frames: Sequence[int] = (), seen: Sequence[int] = ()) -> Row:
        """Begin the row of a forward pass that records in ``layers`` layers.

        Raises:
            InputError: an earlier forward pass had other frames, or attended to other frames.
        """
        self._rows = [row for row in self._rows if row.complete]  # the others were interrupted by an error
        positions = (tuple(frames), tuple(seen))
        if self._rows and positions != (self.frames, self.seen):
            raise InputError(
                f"This recorder has forward passes of frames {list(self.frames)} that attend to {list(self.seen)}, the "
                f"new one has {list(frames)} that attend to {list(seen)}; a recorder is for one chunk and one choice "
                "of frames to read, use one for each."
            )
        self.frames, self.seen = positions
        self._rows.append(Row(layers))
        return self._rows[-1]

    def shares(self, series: str | None = None) -> Float[Tensor, "calls layers *rest"]:
        """The recorded shares, one row per forward pass, fp32 on the CPU; empty before the first forward pass.

        Without a name, returns the series that was recorded first.

        Raises:
            InputError: the forward passes differ in batch size or number of layers.
        """
        rows = [row for row in self._rows if row.complete]
        if series is None:
            series = next((name for row in rows for name in row.series), None)
        by_layer = [row.series[series] for row in rows if series in row.series]
        stacked = [torch.stack([shares[layer] for layer in sorted(shares)]) for shares in by_layer]
        if not stacked:
            return torch.zeros(0, 0, 0, *(len(x) for x in (self.frames, self.seen) if x))
        if len(shapes := sorted({tuple(x.shape) for x in stacked})) > 1:
            raise InputError(
                f"The forward passes recorded shares [layers, batch, …] of different shapes: {shapes}; use one "
                "recorder for each."
            )
        return torch.stack(stacked)

    def even(self) -> Float[Tensor, "frames seen"]:
        """The shares of a cache if a chunk without other memory attended uniformly to itself and the cached frames."""
        total = len(self.frames) + len(self.seen)
        return torch.full((len(self.frames), len(self.seen)), 1 / total if total else 0.0)


class Row:
    """The shares of one forward pass, by series and layer."""

    def __init__(self, layers: int) -> None:
        self.series: dict[str, dict[int, Tensor]] = {}
        self._layers = layers

    def record(self, series: str, layer: int, share: Tensor) -> None:
        """Record the shares [batch, …] of a layer."""
        self.series.setdefault(series, {})[layer] = share.detach().float().cpu()

    @property
    def complete(self) -> bool:
        """Whether the forward pass was completed: its first series has all layers."""
        return bool(self.series) and len(next(iter(self.series.values()))) == self._layers
