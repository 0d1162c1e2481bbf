"""Clips and banks of a few numbers, each a function of its seed."""

import json
from pathlib import Path

import torch

from memkit.banks import MemoryBank
from memkit.cameras import Cameras
from tests.helpers.pose_files import cameras as random_cameras


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)


def latents(seed: int, shape=(2, 3, 2, 2), dtype=torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def cameras(frames: int, seed: int = 0) -> Cameras:
    return random_cameras(frames, seed, torch.float32)


def filled(path: Path, count: int = 3) -> MemoryBank:
    bank = MemoryBank.create(path)
    for i in range(count):
        bank.add(f"clip{i}", latents(i), f"caption {i}")
    return bank


def without_checksums(path: Path) -> Path:
    """Make a bank what memkit 0.1 wrote: no checksum in a line of its manifest, and a header of format and info."""
    header = json.loads((path / "bank.json").read_bytes())
    header = {name: header[name] for name in ("format", "version", "info")}
    (path / "bank.json").write_text(json.dumps(header, indent=1))
    lines = [json.loads(line) for line in (path / "clips.jsonl").read_bytes().splitlines()]
    for line in lines:
        del line["crc32"]
    (path / "clips.jsonl").write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return path
