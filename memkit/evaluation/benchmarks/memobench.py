"""MemoBench (arXiv 2606.27537): its data, the frames that its scorer reads, and its PSNR and SSIM per phase.

What a clip shows is visible (V), then hidden (D), and returns (R). The published scores of detection, camera control
and answers to questions need SAM 3, MapAnything and a vision-language model; PSNR and SSIM are computed here.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from memkit.banks.posed_clips import cropped
from memkit.cameras.cameras import Cameras
from memkit.cameras.checks import check_cameras
from memkit.checks import MOST_FRAMES, check_whole
from memkit.errors import InputError
from memkit.evaluation.benchmarks.output import images_in, read_image
from memkit.evaluation.benchmarks.phases import LEAST_FRAMES, Phases, pairs, read_phases
from memkit.evaluation.benchmarks.pixels import MEMOBENCH, area_resize, longest_side, pixel_scores
from memkit.evaluation.benchmarks.task import Benchmark, Given, Task, checked

LONGEST_SIDE = 640  # pixels of generated frames when they are scored
_METRES = 0.01  # per unit of Unreal Engine


class Clip(NamedTuple):
    """A clip of the data: its folders, and what its row of the metadata says."""

    id: str
    output: str
    frames: Path
    prompt: str
    phases: Phases | None
    poses: Path


@dataclass(frozen=True)
class MemoBench(Benchmark):
    """The tasks of MemoBench: each clip from its first frame, along its own camera path.

    Args:
        data: the published folder, with ``sam3_metadata``, ``Synthetic_processed`` and ``Real_Raw``.
        phases: the tables of exits and re-entries, .xlsx or .csv; by default all of them in ``data`` and below. Without
            them, no clip is scored here.
        frames: number of frames per video; by default as many as the clip has.
        parts: "synthetic", "real", or both.
    """

    data: Path
    phases: tuple[Path, ...] = ()
    frames: int | None = None
    parts: tuple[str, ...] = ("synthetic", "real")

    name: ClassVar[str] = "memobench"

    def __post_init__(self) -> None:
        if self.frames is not None:
            check_whole("frames", self.frames, LEAST_FRAMES, MOST_FRAMES)
        if unknown := set(self.parts) - {"synthetic", "real"}:
            raise InputError(f"MemoBench has no part {', '.join(sorted(unknown))}; choose synthetic, real, or both.")

    def tasks(self) -> list[Task]:
        return checked([self._task(clip) for clip in self._clips if not (clip.phases and clip.phases.skip)])

    def warnings(self) -> list[str]:
        without = [clip.id for clip in self._clips if clip.phases is None]
        if not without:
            return []
        shown = ", ".join(without[:5]) + (f" and {len(without) - 5} more" if len(without) > 5 else "")
        return [f"{shown}: no table says when the subject exits and re-enters, so they are not scored here"]

    def _task(self, clip: Clip) -> Task:
        length = self.frames or len(images_in(clip.frames))
        given = partial(_given, clip, length)
        group = clip.output.split("/")[0]
        return Task(clip.id, group, f"{clip.output}/frames", clip.prompt, given=given, kept=1, length=length)

    @cached_property
    def _clips(self) -> list[Clip]:
        return list(self._read_clips())

    def _read_clips(self) -> Iterator[Clip]:
        found = read_phases(self.phases or tuple(sorted([*self.data.rglob("*.xlsx"), *self.data.rglob("phases*.csv")])))
        if "synthetic" in self.parts:
            for row in _metadata(self.data / "sam3_metadata" / "synthetic_metadata.csv", ("scene", "video_id")):
                scene, number = row["scene"], int(row["video_id"])
                name = f"{scene}_{number:03d}"
                place, output = self.data / "Synthetic_processed" / scene / name, f"Synthetic/{scene}/{name}"
                yield Clip(name, output, place / f"RGB{number}", row["prompt"], found.get(name), place / f"{number}")
        if "real" in self.parts:
            for row in _metadata(self.data / "sam3_metadata" / "real_metadata.csv", ("video_id",)):
                name = f"{int(row['video_id']):03d}"
                place = self.data / "Real_Raw" / name
                poses = place / "raw" / f"{name}_mapanything.npz"
                yield Clip(name, f"Real/{name}", place / "FRAMES", row["prompt"], found.get(name), poses)

    def is_scored(self, task: Task) -> bool:
        return self._clip(task).phases is not None

    def _clip(self, task: Task) -> Clip:
        return next(clip for clip in self._clips if clip.id == task.id)

    def score(self, task: Task, video: UInt8[Tensor, "time height width 3"]) -> dict[str, float]:
        """``V psnr``, ``V ssim`` and so on: of each phase, its frames against those of the clip, as `pairs` has them.

        Raises `InputError` for a video of fewer than 6 frames.
        """
        clip = self._clip(task)
        assert clip.phases is not None
        files, scores = images_in(clip.frames), {}
        generated = longest_side(video, LONGEST_SIDE)
        height, width = generated.shape[1:3]
        for name, matched in pairs(clip.phases, len(files), len(video)).items():
            own, true = zip(*matched, strict=True)
            truth = torch.cat([area_resize(read_image(files[i])[None], height, width) for i in true])
            found = pixel_scores(generated[list(own)], truth, MEMOBENCH)
            scores |= {f"{name} {key}": found[key] for key in ("psnr", "ssim")}
        return scores


def _metadata(file: Path, keys: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a metadata file, with keys and prompt."""
    columns = (*keys, "prompt")
    try:
        with open(file, encoding="utf-8-sig", newline="") as opened:
            rows = list(csv.DictReader(opened))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{file} cannot be read ({error}); give the folder of MemoBench as published.") from error
    for number, row in enumerate(rows, 2):
        if missing := [name for name in columns if not (row.get(name) or "").strip()]:
            raise InputError(f"{file}, line {number}, has no {', '.join(missing)}; download it again.")
        if not row["video_id"].strip().isdecimal():
            raise InputError(f"{file}, line {number}: video_id is {row['video_id']!r}; download it again.")
    return rows


# -- what a video goes on from -----------------------------------------------------------------------------------------


def _given(clip: Clip, length: int, height: int, width: int) -> Given:
    """The first frame of a clip, and its camera path in ``length`` steps: frame i has pose round(i(T−1)/(length−1))."""
    first = images_in(clip.frames)[0]
    image = read_image(first)
    cameras = _cameras(clip, image.shape[:2])
    count = len(cameras.c2w)
    rows = [round(i * (count - 1) / max(1, length - 1)) for i in range(length)]
    intrinsics = cropped(cameras.intrinsics[rows], image.shape[:2], (height, width))
    return Given(read_image(first, height, width)[None], Cameras(cameras.c2w[rows], intrinsics))


def _cameras(clip: Clip, size: Sequence[int]) -> Cameras:
    """The cameras of all frames of a clip: of Unreal Engine in metres, or MapAnything's."""
    if clip.poses.suffix == ".npz":
        arrays = _load(clip.poses)
        if not {"cam_c2w", "intrinsic"} <= arrays.keys():
            raise InputError(f"{clip.poses} holds {sorted(arrays)}, not cam_c2w and intrinsic; download it again.")
        c2w, k = torch.from_numpy(arrays["cam_c2w"]).double(), torch.from_numpy(arrays["intrinsic"]).double()
        pixels = torch.stack([k[..., 0, 0], k[..., 1, 1], k[..., 0, 2], k[..., 1, 2]], dim=-1)
        # of images whose size is not stated; their principal point is taken for their middle
        sides = 2 * pixels[..., 2:]
    else:
        c2w = torch.from_numpy(_load(clip.poses / "poses.npy")).double().clone()
        pixels = torch.from_numpy(_load(clip.poses / "intrinsics.npy")).double()
        c2w[..., :3, 3] *= _METRES
        sides = torch.tensor([size[1], size[0]], dtype=torch.float64)
    if c2w.ndim != 3 or c2w.shape[1:] != (4, 4) or pixels.shape not in ((4,), (len(c2w), 4)):
        raise InputError(
            f"{clip.poses}: poses are {list(c2w.shape)} and intrinsics {list(pixels.shape)}; they must be [N, 4, 4] "
            "and [N, 4]."
        )
    shares = torch.cat([pixels[..., :2] / sides, pixels[..., 2:] / sides], dim=-1)
    cameras = Cameras(c2w, shares.expand(len(c2w), 4))
    check_cameras(cameras, str(clip.poses))
    return cameras


def _load(file: Path) -> Any:
    """An array, or the arrays of an .npz; no pickle is loaded."""
    try:
        found = np.load(file, allow_pickle=False)
        return {name: found[name] for name in found.files} if file.suffix == ".npz" else found
    except Exception as error:  # numpy and zipfile have a dozen types for a damaged file
        raise InputError(f"{file} cannot be read as arrays ({error}); download it again.") from error
