"""Cameras, wherever they enter, and the keys that steer them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memkit.banks import MemoryBank
from memkit.cameras import (
    CameraPath,
    Cameras,
    cameras_from_keys,
    cameras_from_stevo_keys,
    hold_last_camera,
    latent_cameras,
    level_camera,
    read_poses,
    steps_from_keys,
    write_poses,
)
from memkit.metrics import revisit_pairs
from memkit.retrievers import FOVRetriever
from memkit.rollout import History
from tests.faults.inputs import HUGE, NO_COUNT, NO_NUMBER, NO_POSITIVE_COUNT, Api
from tests.helpers.pose_files import npz
from tests.helpers.small_banks import cameras, latents

FRAMES = 5


def changed(c2w: Callable[[Tensor], Tensor] = lambda x: x, k: Callable[[Tensor], Tensor] = lambda x: x) -> Cameras:
    good = cameras(FRAMES)
    return Cameras(c2w(good.c2w), k(good.intrinsics))


def put(at: tuple[Any, ...], value: float) -> Callable[[Tensor], Tensor]:
    def change(x: Tensor) -> Tensor:
        y = x.clone()
        y[at] = value
        return y

    return change


def mirror(x: Tensor) -> Tensor:
    return x @ torch.diag(torch.tensor([1.0, -1.0, 1.0, 1.0]))


BAD_POSES: tuple[Any, ...] = (
    lambda: changed(put((2, 0, 3), float("nan"))),
    lambda: changed(put((2, 0, 3), float("inf"))),
    lambda: changed(put((2, 3, 3), 0.0)),
    lambda: changed(lambda x: 1.1 * x),
    lambda: changed(mirror),
    lambda: changed(torch.zeros_like),
    lambda: changed(lambda x: x[:, :3]),
    lambda: changed(lambda x: x[..., 0]),
)
BAD_INTRINSICS: tuple[Any, ...] = (
    lambda: changed(k=put((2, 0), float("nan"))),
    lambda: changed(k=put((2, 1), float("inf"))),
    lambda: changed(k=put((2, 0), -1.0)),
    lambda: changed(k=lambda x: 500 * x),
    lambda: changed(k=lambda x: x / 500),
    lambda: changed(k=put((2, 2), 1.7)),
    lambda: changed(k=put((2, 3), -0.2)),
    lambda: changed(k=lambda x: x[:, :3]),
)
BAD_CAMERAS = (*BAD_POSES, *BAD_INTRINSICS)
WORDS = {"cameras": ("pose", "intrinsics", "camera", "c2w")}


def add_to_bank(cameras: Cameras) -> object:
    bank = MemoryBank.create(tempfile.mkdtemp())
    bank.add("a", latents(0, (2, FRAMES, 2, 2)), "a", cameras=cameras)
    return bank.clip("a")


def add_to_history(cameras: Cameras) -> object:
    history = History()
    batched = Cameras(cameras.c2w[None], cameras.intrinsics[None])
    history.add(latents(0, (1, 2, FRAMES, 2, 2)), batched, range(FRAMES))
    return history.cameras


def written(cameras: Cameras) -> object:
    file = Path(tempfile.mkdtemp(), "poses.npz")
    write_poses(file, cameras)
    return read_poses(file)


def found(cameras: Cameras, query: Cameras | None = None, **options: Any) -> object:
    query = Cameras(cameras.c2w[0], cameras.intrinsics[0]) if query is None else query
    return tuple(FOVRetriever(cameras, **options)(query, k=2))


def path(cameras: Cameras) -> object:
    return CameraPath.of(cameras).vectors


def read(**arrays: Any) -> object:
    return read_poses(npz(Path(tempfile.mkdtemp(), "poses.npz"), **arrays))


def start() -> Cameras:
    return level_camera(480, 832, 60.0)


K = torch.tensor([[500.0, 0, 416], [0, 500, 240], [0, 0, 1]]).numpy()
PIXELS: dict[str, Any] = {"K": K, "width": 832, "height": 480, "intrinsics": None}
KEYS = {
    "text": "w-3",
    "start": lambda: start(),
    "metres_per_latent": 0.4,
    "degrees_per_latent": 10.0,
    "frames_per_latent": 4,
}
BAD_KEYS = (
    "",
    "w",
    "w-",
    "w-0",
    "w--3",
    "x-3",
    "w-3,,d-2",
    "w-1.5",
    "w-999999999",
    "wait-99999999",
    "w+w-3",
    "w-³",
    None,
)

APIS = (
    Api("MemoryBank.add(cameras)", add_to_bank, {"cameras": lambda: cameras(FRAMES)}, {"cameras": BAD_CAMERAS}, WORDS),
    Api("History.add(cameras)", add_to_history, {"cameras": lambda: cameras(FRAMES)}, {"cameras": BAD_CAMERAS}, WORDS),
    Api("write_poses", written, {"cameras": lambda: cameras(FRAMES)}, {"cameras": BAD_CAMERAS}, WORDS),
    Api("FOVRetriever", found, {"cameras": lambda: cameras(FRAMES)}, {"cameras": BAD_CAMERAS}, WORDS),
    Api(
        "FOVRetriever(options)",
        found,
        {"cameras": lambda: cameras(FRAMES), "min_overlap": 0.0, "recency": 0.0, "select": "top", "rule": "sector"},
        {
            "min_overlap": (*NO_NUMBER, -1.0, 2.0),
            "recency": (*NO_NUMBER, -1.0),
            "select": ("best", None, 3),
            "rule": ("cone", None, 3),
            "ids": (["a"], ["a", "b"], "abcde", [1, 2, 3, 4, 5]),
            "sources": (["a"], "abcde"),
            "depth": (torch.ones(2, 4, 4), torch.full((FRAMES, 4, 4), float("nan")), -torch.ones(FRAMES, 4, 4)),
            "query": BAD_CAMERAS,
        },
        {"query": ("camera", "pose", "intrinsics"), "depth": ("frames",), "ids": ("id",)},
    ),
    Api(
        "CameraPath.of",
        path,
        {"cameras": lambda: cameras(FRAMES)},
        {"cameras": BAD_CAMERAS[:10]},
        {"cameras": ("focal", *WORDS["cameras"])},
    ),
    Api(
        "read_poses(.npz with K)",
        read,
        PIXELS,
        {
            "K": (K / 832, -K, K * 0, K.astype(complex), K[:2], K + 1, K * float("nan"), "K", K[None].repeat(7, 0)),
            "width": (0, -832, NO_NUMBER[3], NO_NUMBER[4], 480 / 9, [1, 2], "832"),
            "height": (0, -480, NO_NUMBER[3], NO_NUMBER[4], 5, [1, 2], "480"),
        },
        dict.fromkeys(("K", "width", "height"), ("poses.npz",)),
    ),
    Api(
        "cameras_from_keys",
        cameras_from_keys,
        KEYS,
        {
            "text": BAD_KEYS,
            "start": (lambda: cameras(2), lambda: Cameras(torch.zeros(4, 4), torch.ones(4))),
            "metres_per_latent": (*NO_NUMBER, -1.0),
            "degrees_per_latent": (*NO_NUMBER, -1.0),
            "frames_per_latent": (*NO_POSITIVE_COUNT, HUGE),
        },
        {
            "text": ("KEY-N", "item"),
            "metres_per_latent": ("metres",),
            "degrees_per_latent": ("°",),
            "frames_per_latent": ("frames",),
            "start": ("pose",),
        },
    ),
    Api("steps_from_keys", steps_from_keys, {"text": "w-3"}, {"text": BAD_KEYS}, {"text": ("KEY-N", "item")}),
    Api(
        "cameras_from_stevo_keys",
        lambda text: cameras_from_stevo_keys(text, start()),
        {"text": "w-3"},
        {"text": ("", "w", "w-0", "q-3", "w-3,,", "w-99999999999", None)},
        {"text": ("item", "KEY")},
    ),
    Api(
        "level_camera",
        level_camera,
        {"height": 48, "width": 64, "fov_degrees": 60.0},
        {
            "height": NO_POSITIVE_COUNT[:1] + (NO_NUMBER[3], 0, -1),
            "width": (0, -1, NO_NUMBER[3]),
            "fov_degrees": (*NO_NUMBER, 0, -10.0, 180.0, 400.0),
        },
        {"fov_degrees": ("field of view", "degrees", "fov")},
    ),
    Api(
        "latent_cameras",
        latent_cameras,
        {"cameras": lambda: cameras(FRAMES), "frames_per_latent": 4},
        {
            "cameras": (lambda: cameras(4), lambda: Cameras(torch.zeros(0, 4, 4), torch.zeros(0, 4))),
            "frames_per_latent": (*NO_COUNT, 0, 3),
        },
        {"frames_per_latent": ("frames per latent", "cameras")},
    ),
    Api(
        "hold_last_camera",
        hold_last_camera,
        {"cameras": lambda: cameras(FRAMES), "stride": 4},
        {"cameras": (lambda: Cameras(torch.zeros(0, 4, 4), torch.zeros(0, 4)),), "stride": (*NO_POSITIVE_COUNT, HUGE)},
    ),
    Api(
        "revisit_pairs",
        lambda **options: list(revisit_pairs(**options)),
        {"cameras": lambda: cameras(FRAMES), "metres": 0.05, "degrees": 1.0, "min_gap": 1},
        {
            "cameras": BAD_POSES[:3],
            "metres": (*NO_NUMBER, -1.0),
            "degrees": (*NO_NUMBER, -1.0),
            "min_gap": NO_POSITIVE_COUNT,
        },
        WORDS,
    ),
)
