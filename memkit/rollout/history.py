"""`History`: the past of a rollout, latent frames with their cameras and times, within a budget of bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from memkit.cameras.cameras import Cameras
from memkit.checks import MOST_FRAMES, check_budget, check_whole, shown
from memkit.display import counted, described, listed, size_of
from memkit.errors import InputError
from memkit.files.tensors import FileKind, open_tensors, save_tensors
from memkit.rollout.frames import Frame, Selection, bytes_of, copy_to, frames_of, layout_of

KIND, KEY = FileKind("saved history", "memkit-history", 1), "history"


class History:
    """Latent frames in the order in which they were added; over budget, the oldest unpinned ones are dropped.

        history = History(budget=64 * 2**20, pinned=1)
        history.add(latents, cameras, times=[0, 1, 2])
        context = history.take(history.newest(2))

    Frames are copied when they are added, one by one and without their autograd graph, so dropped frames are freed at
    once and memory stays flat once the budget is reached. The caller chooses a frame's time: chunks that share a frame
    may both add it, and then it is held twice, as two rows of the same time. Row 0 is the oldest frame held.

    Args:
        budget: bytes that frames and their cameras may take together; None for no limit. It must hold one frame more
            than are pinned, which is checked when the first is added.
        pinned: how many of the first frames ever added are never dropped (a sink, an anchor).

    Raises:
        InputError: a budget that is not positive or exceeds the memory of this machine, or less than no pinned frames.
    """

    def __init__(self, budget: int | None = None, pinned: int = 0) -> None:
        check_whole("pinned", pinned, 0, MOST_FRAMES, "frames")
        if budget is not None:
            check_budget("budget", budget)
        self.budget, self.pinned = budget, pinned
        self._frames: list[Frame] = []
        self._dropped = 0

    # -- contents -------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        of = "" if self.budget is None else f" of {size_of(self.budget)}"
        dropped = f"{self.dropped} dropped" if self.dropped else ""
        held = f"{counted(len(self), 'frame')}{f' at times {listed(self.times)}' if self._frames else ''}"
        return described(self, held, dropped, f"{size_of(self.nbytes)}{of}")

    def __len__(self) -> int:
        """The number of frames held."""
        return len(self._frames)

    @property
    def times(self) -> tuple[int, ...]:
        """The time of each frame held."""
        return tuple(frame.time for frame in self._frames)

    @property
    def nbytes(self) -> int:
        """Bytes of the frames held and their cameras: at most the budget."""
        return len(self) * self._frame_bytes if self._frames else 0

    @property
    def dropped(self) -> int:
        """Number of frames dropped so far."""
        return self._dropped

    @property
    def latents(self) -> Float[Tensor, "batch channels frames height width"]:
        """A copy of all frames held.

        Raises:
            InputError: nothing was added yet.
        """
        return torch.stack([frame.tensors[0] for frame in self._filled()], dim=2)

    @property
    def cameras(self) -> Cameras | None:
        """A copy of all cameras [batch, frames]; None if frames were added without.

        Raises:
            InputError: nothing was added yet.
        """
        fields = list(zip(*(frame.tensors[1:] for frame in self._filled()), strict=True))
        return Cameras(*(torch.stack(field, dim=1) for field in fields)) if fields else None

    def newest(self, n: int) -> Int[Tensor, "batch rows"]:
        """Rows of the newest ``n`` frames, ascending, the same for each sample; fewer where fewer are held.

        Raises:
            InputError: n is below 0, or nothing was added yet.
        """
        check_whole("n", n, unit="newest frames")
        latent = self._filled()[0].tensors[0]
        return torch.arange(max(0, len(self) - n), len(self), device=latent.device).repeat(len(latent), 1)

    def take(self, index: Int[Tensor, "batch k"]) -> Selection:
        """The frames at the rows that ``index`` gives for each sample, in its order; rows may repeat.

        Raises:
            InputError: another batch size, or a row that is not held.
        """
        latent = self._filled()[0].tensors[0]
        if not isinstance(index, Tensor) or index.ndim != 2 or index.dtype not in (torch.int32, torch.int64):
            raise InputError(f"The index is {shown(index)}; give whole numbers [batch, k].")
        rows: list[list[int]] = index.tolist()
        if len(rows) != len(latent):
            raise InputError(f"The index has {len(rows)} samples, the history {len(latent)}; give rows for each.")
        if wrong := sorted({row for sample in rows for row in sample if not 0 <= row < len(self)}):
            raise InputError(f"The history has rows 0 to {len(self) - 1}; {wrong} are not among them.")
        fields = [self._gather(field, rows, index.shape[1]) for field in range(len(self._frames[0].tensors))]
        held = self.times
        times = torch.tensor([[held[row] for row in sample] for sample in rows], dtype=torch.long)
        cameras = Cameras(fields[1], fields[2]) if fields[1:] else None
        return Selection(fields[0].movedim(1, 2), cameras, times.view(index.shape).to(latent.device))

    # -- adding frames --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def add(
        self,
        latents: Float[Tensor, "batch channels frames height width"],
        cameras: Cameras | None,
        times: Sequence[int],
    ) -> None:
        """Add latent frames, the oldest first, with cameras [batch, frames] or without, and a time index for each.

        Over budget, whole frames are dropped, as if frames were added one by one: of a chunk larger than the budget,
        only the end (and pinned frames) stays. Frames are kept on the device of the first.

        Raises:
            InputError: there are no frames, or they are not finite; the number of cameras or times does not fit; a
                camera is not plausible, see `memkit.cameras.check_cameras`; a time is not an integer; the shape, the
                dtype or the presence of cameras differs from the frames held; or the budget does not hold one frame
                beside the pinned ones. The history is then unchanged.
        """
        new = frames_of(latents, cameras, times)
        if self._frames and (was := layout_of(self._frames[0])) != (now := layout_of(new[0])):
            raise InputError(f"The history holds frames of {was}, the new ones are {now}; start another history.")
        total = len(self) + len(new)
        gone = max(0, total - self._capacity(new[0])) if self.budget is not None else 0
        leaves = range(self.pinned, self.pinned + gone)
        held, first = len(self), (self._frames or new)[0]
        self._frames = [frame for row, frame in enumerate(self._frames) if row not in leaves]
        for row, frame in enumerate(new, held):
            if row not in leaves:
                to = zip(frame.tensors, first.tensors, strict=True)
                self._frames.append(Frame(frame.time, tuple(copy_to(x, like.device) for x, like in to)))
        self._dropped += gone

    # -- on disk ---------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write all of it into one safetensors file, its settings and times as JSON in the header; whole or not at all.

        Raises:
            InputError: the file cannot be written.
        """
        tensors = {"latents": self.latents} if self._frames else {}
        if self._frames and (cameras := self.cameras) is not None:
            tensors |= {"c2w": cameras.c2w, "intrinsics": cameras.intrinsics}
        content = {"budget": self.budget, "pinned": self.pinned, "dropped": self.dropped, "times": self.times}
        save_tensors(path, KIND, KEY, content, tensors)

    @staticmethod
    def load(path: str | Path, device: torch.device | str = "cpu") -> History:
        """A saved history on ``device``; a rollout continues from it as from the original.

        Raises:
            InputError: there is no such file, or it holds no history of this version, or is damaged.
        """
        with open_tensors(path, KIND, KEY, device) as (header, file):
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            history = History(header["budget"], header["pinned"])
            if header["times"]:
                cameras = Cameras(tensors["c2w"], tensors["intrinsics"]) if "c2w" in tensors else None
                history.add(tensors["latents"], cameras, header["times"])
            if len(history) != len(header["times"]):
                raise InputError(f"{path} holds more frames than its budget; save it again.")
            history._dropped = header["dropped"]
        return history

    # -- parts -----------------------------------------------------------------------------------------------------

    @property
    def _frame_bytes(self) -> int:
        return bytes_of(self._frames[0])

    def _filled(self) -> list[Frame]:
        if not self._frames:
            raise InputError("The history is empty; add() frames first.")
        return self._frames

    def _capacity(self, frame: Frame) -> int:
        """Frames that the budget holds."""
        assert self.budget is not None
        capacity, wanted = self.budget // bytes_of(frame), self.pinned + 1
        if capacity < wanted:
            raise InputError(
                f"The budget of {self.budget} bytes holds {capacity} frames of {bytes_of(frame)} bytes; {self.pinned} "
                f"pinned and one more need {wanted * bytes_of(frame)}."
            )
        return capacity

    def _gather(self, field: int, rows: list[list[int]], k: int) -> Tensor:
        """[batch, k, …] of one of the frames' tensors, each frame copied once and nothing beside."""
        like = self._frames[0].tensors[field]
        out = like.new_empty(len(rows), k, *like.shape[1:])
        for sample, chosen in enumerate(rows):
            for i, row in enumerate(chosen):
                out[sample, i] = self._frames[row].tensors[field][sample]
        return out
