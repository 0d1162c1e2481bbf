"""`LiftedLatents`: its maps and overlaps against cells one by one, invariances, files."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from memkit.cameras import Cameras
from memkit.errors import FileError, InputError
from memkit.retrievers import LiftedLatents, LiftRule
from memkit.testing import check_retriever
from tests.helpers.fov_cameras import cameras, moved, one, rigid

SIZE = (3, 4)


def some_world(seed: int, frames: int) -> tuple[Cameras, Tensor, Tensor, Cameras]:
    """Frames with latents and depth (some of it unknown), and two cameras among them."""
    generator = torch.Generator().manual_seed(seed)
    places = (torch.rand(frames + 2, 4, generator=generator, dtype=torch.float64) - 0.5) * torch.tensor([2, 2, 1, 0.8])
    every = moved(cameras(places.tolist()), rigid((0.1, 0.2, 0.05), (0.3, 0.1, 0.2)))
    every.intrinsics[:, 1:] = torch.tensor([1.3, 0.45, 0.55])
    depth = 2 + 4 * torch.rand(frames, 6, 8, generator=generator)
    depth[torch.rand(depth.shape, generator=generator) < 0.03] = torch.inf
    latents = torch.randn(5, frames, *SIZE, generator=generator)
    past, now = (Cameras(every.c2w[rows], every.intrinsics[rows]) for rows in (slice(frames), slice(frames, None)))
    return past, latents, depth, now


def store_of(past: Cameras, latents: Tensor, depth: Tensor, **rule) -> LiftedLatents:
    store = LiftedLatents(5, SIZE, LiftRule(**rule))
    store.add(past, latents, depth)
    return store


def points(past: Cameras, depth: Tensor, offset: float) -> list[tuple[Tensor, int, int, int]]:
    """The point of each cell, frame by frame, with its frame, row and column; each is between four pixels of depth."""
    found = []
    height, width = depth.shape[1:]
    for f, c2w in enumerate(past.c2w):
        fx, fy, cx, cy = past.intrinsics[f].tolist()

        def along(i: int, j: int, f: int = f, lens: tuple = (fx, fy, cx, cy)) -> float:
            i, j = min(max(i, 0), height - 1), min(max(j, 0), width - 1)
            x, y = ((j + 0.5) / width - lens[2]) / lens[0], ((i + 0.5) / height - lens[3]) / lens[1]
            return float(depth[f, i, j]) / math.sqrt(x * x + y * y + 1)

        for i in range(SIZE[0]):
            for j in range(SIZE[1]):
                v, u = (i + 0.5) * height / SIZE[0] - 0.5, (j + 0.5) * width / SIZE[1] - 0.5
                (i0, a), (j0, b) = ((int(w), w - int(w)) for w in (v, u))
                weights = [(i0, j0, (1 - a) * (1 - b)), (i0 + 1, j0, a * (1 - b)), (i0, j0 + 1, (1 - a) * b)]
                weights = [each for each in [*weights, (i0 + 1, j0 + 1, a * b)] if each[2] > 0]
                z = sum(w * along(k, m) for k, m, w in weights)
                if math.isfinite(z):
                    x = ((j + offset) / SIZE[1] - cx) / fx * z
                    y = ((i + offset) / SIZE[0] - cy) / fy * z
                    found.append(((c2w @ torch.tensor([x, y, z, 1.0], dtype=torch.float64))[:3], f, i, j))
    return found


def shown(cells: list, camera: Cameras, offset: float) -> dict[tuple[int, int], int]:
    """The number of the nearest point in each cell of a camera."""
    fx, fy, cx, cy = camera.intrinsics.tolist()
    inverse, best = torch.linalg.inv(camera.c2w), {}
    for n, (point, *_) in enumerate(cells):
        x, y, z = (inverse[:3, :3] @ point + inverse[:3, 3]).tolist()
        if z <= 0:
            continue
        j = math.floor(SIZE[1] * (fx * x / z + cx) - offset + 0.5)
        i = math.floor(SIZE[0] * (fy * y / z + cy) - offset + 0.5)
        if 0 <= i < SIZE[0] and 0 <= j < SIZE[1]:
            best[i, j] = min(best.get((i, j), (math.inf, n)), (z, n))
    return {place: n for place, (_, n) in best.items()}


@settings(max_examples=8, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), frames=st.integers(1, 5), offset=st.sampled_from([0.0, 0.5]))
def test_maps_and_overlaps_are_those_of_cells_one_by_one(seed: int, frames: int, offset: float) -> None:
    past, latents, depth, now = some_world(seed, frames)
    store, cells = store_of(past, latents, depth, offset=offset, voxel=0.8), points(past, depth, offset)
    torch.testing.assert_close(store.cells.points, torch.stack([p for p, *_ in cells]), rtol=0, atol=1e-6)
    found = store.read(now)
    for f in range(2):
        camera = Cameras(now.c2w[f], now.intrinsics[f])
        seen = shown(cells, camera, offset)
        mask, want = torch.zeros(SIZE, dtype=torch.bool), torch.zeros(5, *SIZE)
        for (i, j), n in seen.items():
            mask[i, j], want[:, i, j] = True, latents[:, cells[n][1], cells[n][2], cells[n][3]]
        assert torch.equal(found.mask[f], mask) and torch.equal(found.latents[:, f], want)
        cubes = [tuple(torch.floor(p / 0.8).int().tolist()) for p, *_ in cells]
        visible, overlap = {cubes[n] for n in seen.values()}, []
        for frame in range(frames):
            own = {cube for cube, (_, of, *_) in zip(cubes, cells, strict=True) if of == frame}
            overlap.append(len(own & visible) / max(1, len(own | visible)))
        assert store.overlap(camera).tolist() == pytest.approx(overlap)
    assert torch.equal(found.stacked(), torch.cat([found.latents, found.mask[None].float()]))


@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), turn=st.tuples(*[st.floats(-3, 3)] * 3), shift=st.tuples(*[st.floats(-50, 50)] * 3))
def test_moving_the_whole_world_changes_nothing(seed: int, turn: tuple, shift: tuple) -> None:
    past, latents, depth, now = some_world(seed, 3)
    motion = rigid(turn, shift)
    ours, theirs = store_of(past, latents, depth), store_of(moved(past, motion), latents, depth)
    for mine, other in zip(ours.read(now), theirs.read(moved(now, motion)), strict=True):
        assert torch.equal(mine, other)


def test_from_its_own_camera_a_frame_is_what_it_was_and_what_is_behind_is_hidden() -> None:
    past, latents, depth, _ = some_world(0, 1)
    found = store_of(past, latents, depth.clamp(max=9.0)).read(past)
    assert torch.equal(found.latents, latents) and found.mask.all()
    near, far = torch.full((1, 6, 8), 2.0), torch.full((1, 6, 8), 7.0)
    two = Cameras(past.c2w.repeat(2, 1, 1), past.intrinsics.repeat(2, 1))
    both = torch.cat([latents, latents + 1], dim=1)
    for depths, front in ((torch.cat([near, far]), 0), (torch.cat([far, near]), 1), (torch.cat([far, far]), 0)):
        assert torch.equal(store_of(two, both, depths).read(past).latents[:, 0], both[:, front])
    away = moved(past, past.c2w[0] @ rigid((0, 3.1, 0), (0, 0, 0)) @ torch.linalg.inv(past.c2w[0]))
    assert not store_of(past, latents, near).read(away).mask.any()


def test_frames_added_one_by_one_saved_and_loaded_are_the_same(tmp_path) -> None:
    past, latents, depth, now = some_world(3, 5)
    at_once, by_one = store_of(past, latents, depth), LiftedLatents(5, SIZE)
    assert not by_one.read(now).mask.any() and by_one(one(), 3).ids == [] and by_one.nbytes == 0
    for i in range(5):
        if i == 3:
            by_one.save(tmp_path / "cells.safetensors")
            by_one = LiftedLatents.load(tmp_path / "cells.safetensors")
        by_one.add(Cameras(past.c2w[i : i + 1], past.intrinsics[i : i + 1]), latents[:, i : i + 1], depth[i : i + 1])
    assert all(torch.equal(a, b) for a, b in zip(by_one.cells, at_once.cells, strict=True))
    assert by_one.nbytes == at_once.nbytes == len(at_once.cells.frames) * (32 + 5 * 4)
    query = Cameras(now.c2w[0], now.intrinsics[0])
    assert by_one(query, 3) == at_once(query, 3) and by_one.rule == at_once.rule
    file = tmp_path / "cells.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x77")
    with pytest.raises(FileError):
        LiftedLatents.load(file)
    with pytest.raises(FileError, match="There is no saved lifted latents"):
        LiftedLatents.load(tmp_path / "none")


def test_it_has_the_properties_of_a_retriever() -> None:
    past, latents, depth, now = some_world(4, 8)
    sources = {str(i): f"film{i % 3}" for i in range(8)}
    store = LiftedLatents(5, SIZE, LiftRule(voxel=0.8))
    store.add(past, latents, depth, sources=list(sources.values()))
    queries = [Cameras(c2w, lens) for c2w, lens in zip(now.c2w, now.intrinsics, strict=True)]
    check_retriever(store, queries, sources=sources, examples=3)


def test_bad_input_is_refused_and_nothing_is_added() -> None:
    past, latents, depth, _ = some_world(1, 2)
    store = store_of(past, latents, depth)
    for bad, said in (
        (dict(cameras=Cameras(past.c2w[:1], past.intrinsics[:1])), "for each of 1"),
        (dict(depth=-depth), "below 0"),
        (dict(latents=latents[:4]), r"give \[5, 2, 3, 4\]"),
        (dict(latents=latents * torch.inf), "NaN or inf"),
        (dict(ids=["0", "2"]), "occurs twice"),
        (dict(cameras=Cameras(past.c2w * 2, past.intrinsics)), "not a rigid"),
    ):
        with pytest.raises(InputError, match=said):
            store.add(**{"cameras": past, "latents": latents, "depth": depth, "ids": ["a", "b"], **bad})
    assert len(store.cells.frames) == len(store_of(past, latents, depth).cells.frames)
    with pytest.raises(InputError, match="give one camera"):
        store(past)
