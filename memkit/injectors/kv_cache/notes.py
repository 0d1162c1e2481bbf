"""`Notes`: what a cache notes of its frames for its scores, and warnings about frames that are of no use.

A cache of zeros dilutes attention without a trace: a key of zeros has the logit 0. So does a cache that is written and
never read have no effect. MemFlow's first weights were trained with a bank that had stayed zero. Both are warned of.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from memkit.injectors.kv_cache.storage.base import Frames

_UNREAD = 3
"""Number of chunks written in a row without reading any of the frames that are held, at which a warning is given."""


class CacheWarning(UserWarning):
    """A cache holds frames that have no effect, or a wrong one."""


class Notes:
    """Notes of the frames of one branch, by name and position."""

    def __init__(self) -> None:
        self.by_name: dict[str, dict[int, Tensor]] = {}
        self._unread = 0

    def write(self, name: str, notes: Mapping[int, Tensor]) -> None:
        """Note one tensor for each of these positions."""
        self.by_name.setdefault(name, {}).update(notes)

    def read(self, name: str, positions: Sequence[int]) -> list[Tensor | None]:
        """What was noted of these positions; None where nothing was."""
        noted = self.by_name.get(name, {})
        return [noted.get(p) for p in positions]

    def forget(self, held: Sequence[int]) -> None:
        """Forget all frames but these."""
        kept = set(held)
        self.by_name = {name: {p: x for p, x in notes.items() if p in kept} for name, notes in self.by_name.items()}

    # -- frames of no use ----------------------------------------------------------------------------------------------

    def was_read(self) -> None:
        """A forward pass reads frames."""
        self._unread = 0

    def wrote_chunk(self, branch: str, held: int, read: int) -> None:
        """A chunk is written, which reads so many of the frames held. Warns where none were for a while."""
        self._unread = self._unread + 1 if held and not read else 0
        if self._unread == _UNREAD:
            warnings.warn(
                f"{_UNREAD} chunks in a row were written to the branch {branch!r} of a KV cache, and none of them read "
                f"any of the {held} frames that it holds, which so have no effect; check `read`.",
                CacheWarning,
                stacklevel=4,
            )


def warn_of_zeros(branch: str, positions: Sequence[int], layers: Mapping[int, Frames]) -> None:
    """Warn of frames, among those to be written at ``positions``, whose keys or values are all zero in a layer."""
    empty = [torch.stack([(x == 0).all((0, 2, 3, 4)) for x in pair]) for pair in layers.values()]  # fails on meta
    found = torch.stack([x.to(empty[0].device) for x in empty])  # [layers, 2, frames]
    if not bool(found.any()):
        return
    for number, layer in enumerate(layers):
        for row, kind in enumerate(("keys", "values")):
            zeros = [p for p, zero in zip(positions, found[number, row].tolist(), strict=True) if zero]
            if zeros:
                warnings.warn(
                    f"The {kind} of the frames {zeros} that are written to layer {layer} of the branch {branch!r} of a "
                    "KV cache are all zero, which dilutes attention to all others; write what a forward pass computed.",
                    CacheWarning,
                    stacklevel=4,
                )
                return
