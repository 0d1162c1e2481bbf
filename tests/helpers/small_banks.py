"""Clips and banks of a few numbers, each a function of its seed."""

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
