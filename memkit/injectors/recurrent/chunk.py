"""`StateChunk`: one chunk of a video with recurrent memory while it runs.

A forward pass reads the state as it was when its chunk began, and collects the state after its last frame; the state is
replaced at the end of a writing chunk only. So the many passes of denoising begin at the same state, one clean pass
more advances it, and gradient checkpointing may run a block twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from memkit.backbones.protocol import Grid
from memkit.backbones.running import Running
from memkit.checks import check_all_finite
from memkit.errors import InputError, MemkitError
from memkit.injectors.recurrent.state import RecurrentState


@dataclass
class StatePass:
    """One forward pass of one transformer: the state before it, and that after it, by layer."""

    before: dict[int, Tensor]
    grid: Grid
    after: dict[int, Tensor] = field(default_factory=dict)


class StateChunk:
    """One chunk while it runs; see `AttachedStates.chunk`."""

    def __init__(
        self,
        running: Running[StateChunk],
        state: RecurrentState,
        shape: tuple[int, int],
        branch: str | None,
        write: bool,
        through_time: bool,
    ) -> None:
        self._names = state.branches if branch is None else (state.branch(branch)[0],)
        self._running, self._state, self._shape, self._write = running, state, shape, write
        self._branch, self._through_time = branch, through_time
        self._passes: dict[tuple[str, int], StatePass] = {}
        self._contexts: dict[str, set[str | None]] = {}

    def __enter__(self) -> StateChunk:
        self._running.enter(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._running.leave()
        if self._write and kind is None:
            self._commit()

    def begin(self, transformer: int, grid: Grid) -> StatePass:
        """Begin a forward pass of a transformer; what an earlier pass of the same branch collected is discarded.

        Raises:
            InputError: no branch is named, or its frames are of another size.
        """
        name, branch = self._state.branch(self._branch)
        if branch.size not in (None, (grid.height, grid.width)):
            raise InputError(
                f"The state is of frames of {branch.size} rows and columns of tokens, the new ones have "
                f"{(grid.height, grid.width)}; keep the size within a video, or reset() the state."
            )
        before = {layer: x for (number, layer), x in branch.tensors.items() if number == transformer}
        self._contexts.setdefault(name, set()).add(self._state.context)
        self._passes[name, transformer] = each = StatePass(before, grid)
        return each

    def _commit(self) -> None:
        """Replace the state of each branch by that after the last pass of each transformer; all or nothing."""
        transformers, layers = self._shape
        for name in self._names:
            passes = [self._passes.get((name, number)) for number in range(transformers)]
            if any(each is None or len(each.after) != layers for each in passes):
                raise MemkitError(
                    f"The writing chunk ended, but not all {transformers} transformers ran to their end on branch "
                    f"{name!r}; nothing was written. Run every attached transformer, on each branch."
                )
            if len(self._contexts[name]) > 1:
                raise InputError(
                    f"The branch {name!r} was called in the cache contexts {sorted(map(str, self._contexts[name]))}, "
                    'and nothing was written. Create the state with a branch for each: ("cond", "uncond").'
                )
        for (name, number), each in self._passes.items():
            what = f"The state of {name!r} after block {{}} of transformer {number}"
            check_all_finite({what.format(layer): x.detach() for layer, x in each.after.items()})
        for (name, number), each in self._passes.items():
            _, branch = self._state.branch(name)
            for layer, x in each.after.items():
                branch.tensors[number, layer] = x if self._through_time else x.detach()
            branch.size = (each.grid.height, each.grid.width)
            branch.frames += each.grid.frames if number == 0 else 0
