"""MemLearner's generation: keys, own paths, and the example of the docs."""

from __future__ import annotations

import dataclasses
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from memkit.cameras import Cameras, read_poses, write_poses
from memkit.errors import InputError
from memkit.training import load_backbone
from memkit.video import read_video, write_video
from recipes.memlearner import generate
from recipes.memlearner.presets import tiny
from recipes.memlearner.videos import WorldVideo
from tests.helpers.launching import ROOT, arguments
from tests.helpers.memlearner_runs import trained


def test_generate_follows_the_keys(config, tmp_path, capsys) -> None:
    trained(config, tmp_path, method="learned", steps=2)
    own = dataclasses.replace(config, out=tmp_path, method="learned", steps=2, budget=10_000)
    command = generate.Generate(own, room="test-00000", keys="right-2, left-3")
    assert generate.main(command) == 0
    assert "3 chunks" in capsys.readouterr().out
    video, poses = read_video(tmp_path / "generated.mp4"), read_poses(tmp_path / "generated.poses.npz")
    assert len(video.frames) == len(poses.c2w) == 3 * 8 + 1
    torch.testing.assert_close(poses.c2w[4 * 5], poses.c2w[4 * 5 + 4])  # held at the end
    assert not torch.allclose(poses.c2w[0], poses.c2w[8])
    write_video(tmp_path / "first.mp4", video.frames[:1], 8.0)
    own_path = dataclasses.replace(
        command, room=None, keys=None, image=tmp_path / "first.mp4", poses=tmp_path / "generated.poses.npz"
    )
    assert generate.main(own_path) == 0
    with pytest.raises(InputError, match="one of --room"):
        generate.main(dataclasses.replace(command, image=tmp_path / "first.mp4"))


def test_the_example_of_the_docs_runs(config, tmp_path, monkeypatch) -> None:
    trained(config, tmp_path, method="learned", steps=2)
    video = torch.randint(0, 256, (1, 32, 32, 3), dtype=torch.uint8)
    write_video(tmp_path / "hall.mp4", video, 8.0)
    turn = WorldVideo("rooms", "test-00000", 2, load_backbone(config).video_format)
    path = [chunk.cameras for chunk in turn.chunks()]
    whole = [torch.cat([getattr(path[0], f), getattr(path[1], f)[1:]]) for f in ("c2w", "intrinsics")]
    write_poses(tmp_path / "walk.npz", Cameras(*whole))
    text = (Path(__file__).parents[3] / "docs" / "memlearner.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    smaller = {
        "runs/memlearner-wan2.1-1.3b": ".", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": config.model, "cuda": "cpu",
        "bfloat16": "float32", "hall.png": "hall.mp4", "480, 832": "32, 32", "81": "9", "80": "8",
        "2**20)": "2**20, steps=1)",
    }  # fmt: skip
    for name, instead in smaller.items():
        assert name in code
        code = code.replace(name, instead)
    code = code.replace('pipe.to("cpu")', 'pipe.to("cpu"), form')
    monkeypatch.chdir(tmp_path)
    made: dict = {"form": turn.form}
    exec(code, made)
    assert made["frames"].shape == (1, 9, 32, 32, 3) and made["i"] == 8
    assert made["rollout"].shown_times.tolist() == [[0, 1, 2]]


def test_keys_are_read_line_by_line(config, tmp_path, monkeypatch) -> None:
    trained(config, tmp_path, method="window", steps=2)
    own = dataclasses.replace(config, out=tmp_path, method="window", steps=2)
    command = generate.Generate(own, room="test-00000", keys="right-2, left-4", to=tmp_path / "whole.mp4")
    assert generate.main(command) == 0
    monkeypatch.setattr("sys.stdin", io.StringIO("right-2\n\nleft-4\n"))
    assert generate.main(dataclasses.replace(command, keys="-", to=tmp_path / "lines.mp4")) == 0
    whole, lines = (read_video(tmp_path / f"{name}.mp4").frames for name in ("whole", "lines"))
    assert torch.equal(whole, lines) and len(whole) == 3 * 8 + 1
    poses = [read_poses(tmp_path / f"{name}.poses.npz").c2w for name in ("whole", "lines")]
    torch.testing.assert_close(poses[1], poses[0], atol=1e-9, rtol=0)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(InputError, match="No keys"):
        generate.main(dataclasses.replace(command, keys="-"))


def test_a_process_that_reads_keys_survives_typos(config, tmp_path) -> None:
    """Bad lines are named on stderr, and the path is that of the good lines alone."""
    trained(config, tmp_path, method="window", steps=2)
    own = dataclasses.replace(config, out=tmp_path, method="window", steps=2)
    words = [*arguments("recipes.memlearner.generate", own, tiny()), "--room", "test-00000", "--keys", "-"]
    typos = [b"rihgt-2", b"w-0", b"wait-999999", b"right-" + b"9" * 5000, b"\xff\0", b"w+s-1", b"right-2, lfet-4"]
    lines = b"\n".join([typos[0], b"right-2", *typos[1:], b"", b"left-2"])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, *words], input=lines, capture_output=True, cwd=ROOT, env=environment)
    told = run.stderr.decode().replace("\r", "\n")
    assert run.returncode == 0 and "Traceback" not in told, told
    bad = [line for line in told.splitlines() if line.startswith("line ")]
    assert [line.split()[1] for line in bad] == ["1", "3", "4", "5", "6", "7", "8"]
    assert "'rihgt-2' is not KEY-N" in bad[0] and "100,000 latent frames" in bad[2] and "'lfet-4'" in bad[6]
    poses = read_poses(tmp_path / "generated.poses.npz")
    assert len(read_video(tmp_path / "generated.mp4").frames) == len(poses.c2w) == 2 * 8 + 1
    torch.testing.assert_close(poses.c2w[-1], poses.c2w[0], atol=1e-6, rtol=0)
    assert not torch.allclose(poses.c2w[8], poses.c2w[0])
