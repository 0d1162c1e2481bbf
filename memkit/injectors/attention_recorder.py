"""`AttentionRecorder`: where attention falls, by forward, layer and sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.errors import InputError


class AttentionRecorder:
    """Collects shares of attention, in [0, 1]; each forward of a transformer adds one row.

    Pass one to an injector, which says what it records:

        | injector              | series    | shape per forward             | share of the attention of … on …   |
        | `SelfAttentionConcat` | "memory"  | [layers, batch]               | the video on memory tokens         |
        | `KVCache`             | "cache"   | [layers, batch, frames, read] | each frame on each cached frame    |
        | `QueryLayers`         | "context" | [query layers, batch, frames] | the queries on each context frame  |
        |                       | "queries" | [layers, batch]               | the video on the queries, if asked |
        | `QueryModule`         | "context" | [layers, batch, frames]       | the queries on each context frame  |

    Shares are exact means over the softmax that the layer takes, over tokens and heads; they cost as much again as the
    attention that they are of. With classifier-free guidance, Wan makes two forwards per step: the conditional one
    first. A block that gradient checkpointing runs again gives the same share again, and a forward that an error cut
    short leaves no row.

    Args:
        queries: record also the series "queries", which costs as much again as the attention of the video.

    Attributes:
        frames: positions of the frames whose attention is recorded, where it is recorded by frame; else empty.
        seen: positions of the cached or context frames that the attention falls on; else empty.
    """

    def __init__(self, queries: bool = False) -> None:
        self.queries = queries
        self.frames: tuple[int, ...] = ()
        self.seen: tuple[int, ...] = ()
        self._rows: list[Row] = []

    def begin(self, layers: int, frames: Sequence[int] = (), seen: Sequence[int] = ()) -> Row:
        """A row for a forward that records in so many layers.

        Raises:
            InputError: an earlier forward was of other frames, or saw others.
        """
        self._rows = [row for row in self._rows if row.complete]  # an error cut the others short
        about = (tuple(frames), tuple(seen))
        if self._rows and about != (self.frames, self.seen):
            raise InputError(
                f"This recorder has forwards of frames {list(self.frames)} that see {list(self.seen)}, the new one is "
                f"of {list(frames)} that see {list(seen)}; a recorder is for one chunk and one read, use one for each."
            )
        self.frames, self.seen = about
        self._rows.append(Row(layers))
        return self._rows[-1]

    def shares(self, series: str | None = None) -> Float[Tensor, "calls layers *rest"]:
        """One row per forward, fp32 on the CPU; without a name, of the first series recorded. Empty before a forward.

        Raises:
            InputError: the forwards differ in batch or in layers.
        """
        rows = [row for row in self._rows if row.complete]
        if series is None:
            series = next((name for row in rows for name in row.series), None)
        found = [row.series[series] for row in rows if series in row.series]
        stacked = [torch.stack([each[layer] for layer in sorted(each)]) for each in found]
        if not stacked:
            return torch.zeros(0, 0, 0, *(len(x) for x in (self.frames, self.seen) if x))
        if len(shapes := sorted({tuple(x.shape) for x in stacked})) > 1:
            raise InputError(
                f"The forwards recorded shares [layers, batch, …] of the shapes {shapes}; use a recorder for each."
            )
        return torch.stack(stacked)

    def even(self) -> Float[Tensor, "frames seen"]:
        """What the shares of a cache would be if a chunk without other memory looked everywhere alike."""
        total = len(self.frames) + len(self.seen)
        return torch.full((len(self.frames), len(self.seen)), 1 / total if total else 0.0)


class Row:
    """The shares of one forward, by series and layer."""

    def __init__(self, layers: int) -> None:
        self.series: dict[str, dict[int, Tensor]] = {}
        self._layers = layers

    def record(self, series: str, layer: int, share: Tensor) -> None:
        """Keep the shares [batch, …] of a layer."""
        self.series.setdefault(series, {})[layer] = share.detach().float().cpu()

    @property
    def complete(self) -> bool:
        """Whether the forward ran through: its first series has every layer."""
        return bool(self.series) and len(next(iter(self.series.values()))) == self._layers
