"""`RecurrentState`: what recurrent memory carries from chunk to chunk, in memory and on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memkit.checks import check_texts
from memkit.display import counted, described, size_of
from memkit.errors import FileError, InputError
from memkit.files.tensors import FileKind, open_tensors, save_tensors

KIND, KEY = FileKind("saved recurrent state", "memkit-recurrent-state", 1), "state"


class Branch:
    """The state of one branch, in fp32, per transformer and layer: [batch, tokens per frame, width], or of another
    form with three dimensions that its layer knows."""

    def __init__(self) -> None:
        self.tensors: dict[tuple[int, int], Tensor] = {}
        self.frames = 0
        """Number of latent frames that the state has seen."""
        self.size: tuple[int, int] | None = None
        """Rows and columns of tokens of a frame; None before the first frame."""


class RecurrentState:
    """The state of recurrent memory; its size does not depend on the number of frames that it has seen.

    Args:
        branches: names of independent states, one for each pass of guidance: ``("cond", "uncond")`` for pipelines with
            classifier-free guidance, which call the transformer in its ``cache_context`` of that name. The two experts
            of an A14B have states of their own in each branch.

    Raises:
        InputError: there are no names, or a name is repeated.
    """

    def __init__(self, branches: Sequence[str] = ("main",)) -> None:
        check_texts("branches", branches)
        if not branches or len(set(branches)) != len(branches):
            raise InputError(f"branches = {tuple(branches)}; give at least one name, and each only once.")
        self._branches = {name: Branch() for name in branches}
        self.context: str | None = None
        """Name of the ``cache_context`` that an attached transformer is in."""
        self.attached = False

    def __repr__(self) -> str:
        return described(self, ", ".join(self.branches), f"{counted(self.frames, 'frame')} seen", size_of(self.nbytes))

    @property
    def branches(self) -> tuple[str, ...]:
        """Names of the branches."""
        return tuple(self._branches)

    @property
    def frames(self) -> int:
        """Number of latent frames that the state has seen: in the branch that has seen the fewest."""
        return min(branch.frames for branch in self._branches.values())

    @property
    def nbytes(self) -> int:
        """Bytes held: those of the state of each layer, transformer and branch."""
        return sum(x.nbytes for branch in self._branches.values() for x in branch.tensors.values())

    def reset(self) -> None:
        """Forget everything: the next chunk is the first of a video."""
        self._branches = {name: Branch() for name in self._branches}

    def branch(self, name: str | None = None) -> tuple[str, Branch]:
        """The branch called ``name``; without a name the only one, or that of the open ``cache_context``.

        Raises:
            InputError: there is no such branch.
        """
        name = name or (self.branches[0] if len(self._branches) == 1 else self.context)
        if name not in self._branches:
            raise InputError(
                f"There is no branch {name!r}; the state has {list(self._branches)}, name one of them, or call the "
                "transformer inside its cache_context of that name."
            )
        return name, self._branches[name]

    @contextmanager
    def in_context(self, name: str, _about: dict[str, Any]) -> Iterator[None]:
        """Inside, a transformer is in the ``cache_context`` of this name; see `memkit.backbones.cache_context`."""
        before, self.context = self.context, name
        try:
            yield
        finally:
            self.context = before

    def save(self, path: str | Path) -> None:
        """Write all branches into one safetensors file; whole or not at all.

        Raises:
            FileError: the file cannot be written.
        """
        saved = {name: {"frames": branch.frames, "size": branch.size} for name, branch in self._branches.items()}
        tensors = {
            f"{number}.{transformer}.{layer}": x
            for number, branch in enumerate(self._branches.values())
            for (transformer, layer), x in branch.tensors.items()
        }
        save_tensors(path, KIND, KEY, {"branches": saved}, tensors)

    @staticmethod
    def load(path: str | Path, device: torch.device | str = "cpu") -> RecurrentState:
        """A saved state on ``device``; a video continues from it bit for bit.

        Raises:
            FileError: there is no such file, it holds no state of this version, or it is damaged.
        """
        with open_tensors(path, KIND, KEY, device) as (header, file):
            state = RecurrentState(tuple(header["branches"]))
            branches = list(state._branches.values())
            for branch, saved in zip(branches, header["branches"].values(), strict=True):
                branch.frames = int(saved["frames"])
                branch.size = None if saved["size"] is None else (int(saved["size"][0]), int(saved["size"][1]))
            for name in file.keys():  # noqa: SIM118 (not a dict)
                number, transformer, layer = map(int, name.split("."))
                branches[number].tensors[transformer, layer] = tensor = file.get_tensor(name)
                if tensor.ndim != 3 or not bool(tensor.isfinite().all()):
                    raise FileError(f"{path} is damaged: {name} is no finite state; save it again.")
        return state
