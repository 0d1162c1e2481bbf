"""`LiftedLatents`: latents of past frames as points in space, seen from a new camera (Mirage, arXiv 2606.09828)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memkit.cameras.cameras import Cameras
from memkit.checks import check_finite, check_whole
from memkit.errors import FileError, InputError
from memkit.files.tensors import FileKind, open_tensors, save_tensors
from memkit.retrievers.depth import check_depth
from memkit.retrievers.hits import ClipTable, rank
from memkit.retrievers.lifted_cells import LatentMap, LiftedCells, LiftRule, drawn, lifted, overlap
from memkit.retrievers.past_frames import FrameRetriever, check_retrieved, frame_names, more_names

KIND, KEY = FileKind("saved lifted latents", "memkit-lifted-latents", 1), "lifted"


class LiftedLatents(FrameRetriever[Cameras]):
    """Latent cells in space, of frames of ``channels`` and ``size`` (rows, columns); `add` adds frames, `read` draws
    what cameras see of them: latent frames with holes, for a `ControlBranch`.

    A call returns `Hits`: frames whose cubes (`LiftRule.voxel`) overlap those of the cells that the query sees, by
    intersection over union; a frame's cubes are those of its own cells (our reading). There may be fewer than k.
    """

    def __init__(self, channels: int, size: tuple[int, int], rule: LiftRule = LiftRule()) -> None:  # noqa: B008
        for side in (channels, *size):
            check_whole("A number of channels, rows or columns", side, 1)
        self.channels, self.size, self.rule = channels, size, rule
        points, frames = torch.zeros(0, 3, dtype=torch.float64), torch.zeros(0, dtype=torch.int64)
        self.cells = LiftedCells(points, torch.zeros(0, channels), frames)
        self._names: tuple[list[str], list[str | None]] = [], []
        self._clips = ClipTable(*self._names)

    @property
    def nbytes(self) -> int:
        """Bytes held: 32 per cell, and its latent."""
        return sum(each.nbytes for each in self.cells)

    def add(
        self,
        cameras: Cameras,
        latents: Float[Tensor, "channels frames height width"],
        depth: Float[Tensor, "frames rows columns"],
        ids: Sequence[str] | None = None,
        sources: Sequence[str | None] | None = None,
    ) -> None:
        """Add frames: cameras ``[N]`` and, for each, its latents and metres along its rays, 0 or inf for no surface.

        Cells are kept on the device and in the dtype of the first latents; ``ids`` and ``sources`` are as elsewhere.
        Raises `InputError` for what does not fit or is not plausible; then nothing is added.
        """
        check_retrieved(cameras, "The cameras", 1)
        check_finite("The latents", latents, "[C, N, H, W]")
        check_depth(depth, count := len(cameras.c2w))
        if latents.shape != (wanted := (self.channels, count, *self.size)):
            raise InputError(f"The latents are {list(latents.shape)} for {count} cameras; give {list(wanted)}.")
        before, names = len(self._clips), more_names(self._names, ids, sources, count)
        like = self.cells.values if before else latents
        parts = [LiftedCells(*(x.to(like.device) for x in self.cells))._replace(values=self.cells.values.to(like))]
        for i, (c2w, intrinsics) in enumerate(zip(cameras.c2w, cameras.intrinsics, strict=True)):
            camera = Cameras(c2w.detach().to(like.device), intrinsics.detach().to(like.device))
            values, metres = latents[:, i].detach().to(like), depth[i].detach().to(like.device)
            parts.append(lifted(self.rule, camera, values, metres, before + i))
        self.cells, self._names, self._clips = LiftedCells.joined(parts), names, ClipTable(*names)

    def read(self, cameras: Cameras) -> LatentMap:
        """What cameras ``[F]`` see: of several cells in one place, the nearest. Raises `InputError` for bad cameras."""
        check_retrieved(cameras, "The cameras", 1)
        each = (Cameras(*camera) for camera in zip(cameras.c2w, cameras.intrinsics, strict=True))
        shown = [drawn(self.rule, self.cells.points, camera, *self.size) for camera in each]
        index = torch.stack(shown) if shown else self.cells.frames.new_empty(0, *self.size)
        values = torch.cat([self.cells.values, self.cells.values.new_zeros(1, self.channels)])  # of none, at −1
        return LatentMap(values[index].movedim(-1, 0), index >= 0)

    def overlap(self, query: Cameras) -> Float[Tensor, " frames"]:
        """Intersection over union of the cubes of each frame and of what the query sees, in [0, 1]."""
        self._check(query, "the query")
        seen = drawn(self.rule, self.cells.points, query, *self.size)
        return overlap(self.rule, self.cells, seen[seen >= 0], len(self._clips))

    def save(self, path: str | Path) -> None:
        """Write everything into one safetensors file; whole or not at all. Raises `FileError` where it cannot be."""
        content = {"rule": asdict(self.rule), "size": self.size, "ids": self._names[0], "sources": self._names[1]}
        save_tensors(path, KIND, KEY, content, self.cells._asdict())

    @staticmethod
    def load(path: str | Path, device: torch.device | str = "cpu") -> LiftedLatents:
        """What `save` wrote. Raises `FileError` where there is no such file, or it is damaged or of another version."""
        with open_tensors(path, KIND, KEY, device) as (header, file):
            cells = LiftedCells(*(file.get_tensor(name) for name in LiftedCells._fields))
            rows, columns = map(int, header["size"])
            store = LiftedLatents(cells.values.shape[1], (rows, columns), LiftRule(**header["rule"]))
            names = frame_names(header["ids"], header["sources"], len(header["ids"]))
            good = cells.points.shape == (len(cells.values), 3) and cells.frames.shape == (len(cells.values),)
            if not good or bool(((cells.frames < 0) | (cells.frames >= len(names[0]))).any()):
                raise FileError(f"{path} is damaged: its cells and frames do not fit; save it again.")
            store.cells, store._names, store._clips = cells, names, ClipTable(*names)
        return store

    def _best(
        self, query: Cameras, k: int, allowed: Bool[np.ndarray, " clips"]
    ) -> tuple[Int[np.ndarray, " hits"], Float[np.ndarray, " hits"]]:
        scores = self.overlap(query).cpu().numpy()
        return rank(scores, k, allowed & (scores > 0) & (scores >= self.rule.least))
