"""Small made-up data sets in the published layouts of MemoBench, MIND and the leave-and-return protocol."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from memkit.cameras import Cameras, write_poses
from memkit.video import write_video


def frames_of(count: int, height: int = 36, width: int = 64, seed: int = 0) -> Tensor:
    """A smooth random picture that drifts to the left, uint8 [T, H, W, 3]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 4, 8, generator=generator)
    wide = torch.nn.functional.interpolate(coarse, (height, width + 2 * count), mode="bicubic").clamp(0, 1)[0]
    shots = [wide[:, :, 2 * i : 2 * i + width] for i in range(count)]
    return (torch.stack(shots) * 255).byte().movedim(1, -1).contiguous()


def poses_of(count: int) -> np.ndarray:
    """Camera-to-world matrices [N, 4, 4] that walk along x and turn about y."""
    angle = np.linspace(0, 0.5, count)
    c2w = np.tile(np.eye(4), (count, 1, 1))
    c2w[:, 0, 0], c2w[:, 0, 2], c2w[:, 2, 0], c2w[:, 2, 2] = np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle)
    c2w[:, 0, 3] = 100 * angle
    return c2w


def save_images(folder: Path, frames: Tensor, name: str) -> None:
    folder.mkdir(parents=True)
    for i, frame in enumerate(frames.numpy()):
        Image.fromarray(frame).save(folder / name.format(i))


def memobench_in(folder: Path, count: int = 12) -> Path:
    """One synthetic clip, Forest_007, and a real one, 012, of which only the first has phases: hidden 4 to 7."""
    metadata = folder / "sam3_metadata"
    metadata.mkdir(parents=True)
    metadata.joinpath("synthetic_metadata.csv").write_text(
        "scene,video_id,subject,exr_path,prompt\nForest,7,a fox,x.jpg,a fox hides\n"
    )
    metadata.joinpath("real_metadata.csv").write_text("video_id,subject,full_image_path,prompt\n12,a dog,x.jpg,a dog\n")
    metadata.joinpath("phases.csv").write_text("video_folder,exits,re-enter,skip\nForest_007,4,8,\n")
    clip = folder / "Synthetic_processed" / "Forest" / "Forest_007"
    save_images(clip / "RGB7", frames_of(count), "{:04d}.png")
    (clip / "7").mkdir()
    np.save(clip / "7" / "poses.npy", poses_of(count))
    np.save(clip / "7" / "intrinsics.npy", np.tile([40.0, 40.0, 32.0, 18.0], (count, 1)))
    real = folder / "Real_Raw" / "012"
    save_images(real / "FRAMES", frames_of(count, seed=1), "frame_{:04d}.jpg")
    (real / "raw").mkdir()
    k = np.tile(np.array([[30.0, 0, 24], [0, 30, 14], [0, 0, 1]]), (count, 1, 1))
    np.savez(real / "raw" / "012_mapanything.npz", cam_c2w=poses_of(count), intrinsic=k)
    return folder


def mind_in(folder: Path, total: int = 126, mark: int = 5) -> Path:
    """One scene per view and test."""
    for view in ("1st_data", "3rd_data"):
        for test in ("mem_test", "action_space_test"):
            scene = folder / view / "test" / test / "château 1"
            scene.mkdir(parents=True)
            write_video(scene / "video.mp4", frames_of(total), 24.0)
            about = {"mark_time": mark, "total_time": total, "caption": "a walk", "data": []}
            (scene / "action.json").write_text(json.dumps(about))
            (scene / "images.txt").write_text(colmap_text(poses_of(total)))
    return folder


def colmap_text(c2w: np.ndarray) -> str:
    """COLMAP's images.txt of matrices that turn about y: world to camera, quaternions with w first, two lines each."""
    lines = ["# Image list with two lines of data per image:"]
    for i, pose in enumerate(c2w, 1):
        w2c = np.linalg.inv(pose)
        half = np.arctan2(w2c[0, 2], w2c[0, 0]) / 2
        numbers = [np.cos(half), 0.0, np.sin(half), 0.0, *w2c[:3, 3]]
        lines += [f"{i} {' '.join(map(repr, map(float, numbers)))} 1 frame_{i:05d}.jpg", "1.5 2.5 -1 3.5 4.5 7"]
    return "\n".join(lines) + "\n"


def pictures_in(folder: Path, replay: int = 9) -> Path:
    """Two pictures, one with a name that no ASCII has, and a video with poses."""
    folder.mkdir(parents=True)
    for i, name in enumerate(("bear.png", "Bär im Wald.png")):
        Image.fromarray(frames_of(1, seed=i)[0].numpy()).save(folder / name)
    write_video(folder / "walk.mp4", frames_of(replay, seed=3), 8.0)
    c2w = torch.from_numpy(poses_of(replay))
    write_poses(folder / "walk.npz", Cameras(c2w, torch.tensor([0.6, 1.0, 0.5, 0.5]).double().expand(replay, 4)))
    return folder
