"""Ray's workers make the bank that one process makes; one that dies is started again, and nothing is lost."""

from __future__ import annotations

import csv
import os
import random
import signal
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from memkit.banks import MemoryBank, build_bank, parallel
from memkit.banks.on_ray import build_bank_on_ray
from memkit.video import write_video
from memkit.worlds import sample_law
from tests.helpers.small_banks import bits

pytest.importorskip("ray", reason="`make test-ray` installs Ray and runs this test")


class Format(NamedTuple):
    num_frames: int
    height: int
    width: int
    fps: float


class Pooling:
    """An encoder of averages, whose process is killed at its third video, once.

    It needs little to be imported in Ray's workers.
    """

    video_format = Format(num_frames=9, height=32, width=32, fps=8.0)

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0

    def encode_video(self, video: torch.Tensor) -> torch.Tensor:
        self.count += 1
        with open(self.folder / "log", "a") as log:
            log.write(f"{os.getpid()}\n")
        if self.count == 3 and not (self.folder / "killed").exists():
            (self.folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.nn.functional.avg_pool3d(video, (3, 8, 8))


def test_two_workers_one_of_which_is_killed(tmp_path, monkeypatch):
    import ray

    monkeypatch.setattr(parallel, "BLOCK", 2)
    (tmp_path / "videos").mkdir()
    rows = [["video", "caption"]]
    for n in range(9):
        write_video(tmp_path / "videos" / f"{n}.mp4", sample_law(random.Random(n)).video(fps=8.0)[:9], 8)
        rows.append([f"{n}.mp4", f"clip {n}"])
    rows.insert(4, ["gone.mp4", "x"])
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"no video")
    rows.insert(6, ["broken.mp4", "x"])
    with open(tmp_path / "c.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    given = tmp_path / "videos", tmp_path / "c.csv"
    (tmp_path / "killed").touch()
    one = build_bank(*given, tmp_path / "one", Pooling(tmp_path), "tiny")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        for name in ("killed", "log"):
            (tmp_path / name).unlink()
        report = build_bank_on_ray(*given, tmp_path / "two", partial(Pooling, tmp_path), "tiny")
    finally:
        ray.shutdown()
    assert report == one and len(report.bad) == 2
    encoded = (tmp_path / "log").read_text().split()
    # what died had encoded a clip or two that it had not committed
    assert (tmp_path / "killed").exists() and 9 < len(encoded) < 9 + 3 and str(os.getpid()) not in encoded
    first, second = MemoryBank.open(tmp_path / "one"), MemoryBank.open(tmp_path / "two")
    assert second.fingerprint == first.fingerprint and second.ids == first.ids and second.verify().clips == 9
    assert torch.equal(bits(second.latents(second.ids)), bits(first.latents(first.ids)))
    assert not (tmp_path / "two-parts").exists()
