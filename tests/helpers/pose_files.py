"""Cameras and pose files, whole and spoilt, for the tests of both."""

from pathlib import Path

import numpy as np
import torch

from memkit.cameras import Cameras


def cameras(frames: int = 5, seed: int = 0, dtype=torch.float64) -> Cameras:
    """Random rotations, positions within some metres, intrinsics of its own each."""
    generator = torch.Generator().manual_seed(seed)
    c2w = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    rotation = torch.linalg.qr(torch.randn(frames, 3, 3, generator=generator, dtype=torch.float64))[0]
    c2w[:, :3, :3] = rotation * torch.linalg.det(rotation)[:, None, None]
    c2w[:, :3, 3] = 5 * torch.randn(frames, 3, generator=generator, dtype=torch.float64)
    intrinsics = torch.rand(frames, 4, generator=generator, dtype=torch.float64)
    intrinsics[:, :2] += 0.2
    return Cameras(c2w.to(dtype), intrinsics.to(dtype))


def close(got: Cameras, want: Cameras, atol: float = 1e-12) -> None:
    torch.testing.assert_close(got.c2w, want.c2w, atol=atol, rtol=0, check_dtype=False)
    torch.testing.assert_close(got.intrinsics, want.intrinsics, atol=atol, rtol=0, check_dtype=False)


def npz(path: Path, **changes) -> Path:
    """A file of two frames; an array that is None is left out."""
    good = cameras(2)
    arrays = {"c2w": good.c2w.numpy(), "intrinsics": good.intrinsics.numpy()} | changes
    np.savez(path, **{name: np.asarray(a) for name, a in arrays.items() if a is not None})
    return path


def line(w2c: torch.Tensor, intrinsics=(0.9, 1.6, 0.5, 0.5), k=("0.0", "0.0"), time: int = 0) -> str:
    return " ".join(map(str, [time, *intrinsics, *k, *w2c[:3].flatten().tolist()]))


def text(path: Path, *lines: str, url: str = "https://www.youtube.com/watch?v=x") -> Path:
    path.write_text("\n".join([url, *lines]) + "\n")
    return path
