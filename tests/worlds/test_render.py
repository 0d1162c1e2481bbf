"""The ray caster against geometry that can be written down, and against itself."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memkit.cameras import Cameras
from memkit.errors import InputError
from memkit.worlds import Scene, body, render
from memkit.worlds.render import SKY_ID
from memkit.worlds.scene import rotation_about

FLOOR = body("floor", "plane", (0.0, 0.0, 0.0), 1.0, (0.5, 0.5, 0.5))
RED = (1.0, 0.0, 0.0)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


def camera(eye=(0.0, -5.0, 2.0), target=(0.0, 0.0, 2.0), fov=60.0, device="cpu"):
    points = torch.tensor([eye, target], dtype=torch.float64, device=device)[:, None]
    return Cameras.look_at(points[0], points[1], fov_degrees=fov)


def busy(frames=3):
    """A scene with every shape, turns, a pattern and motion."""
    t = torch.arange(frames, dtype=torch.float64)
    moving = torch.stack([0.3 * t - 0.5, 0 * t, 1.5 + 0.2 * t], dim=-1)
    return Scene(
        (
            body("floor", "plane", (0.0, 0.0, 0.0), 1.0, (0.6, 0.6, 0.5), checker=0.8),
            body("ball", "sphere", moving, 0.6, RED),
            body(
                "bar",
                "box",
                (1.2, 1.0, 1.4),
                (0.2, 0.3, 1.2),
                (0.2, 0.7, 0.3),
                rotation_about(0.4 * t, "y"),
                checker=0.5,
            ),
            body("post", "cylinder", (-1.6, 0.7, 1.0), (0.4, 0.4, 1.0), (0.2, 0.3, 0.9)),
            body(
                "wheel",
                "cylinder",
                (-0.2, 2.0, 2.6),
                (0.7, 0.7, 0.1),
                (0.9, 0.8, 0.1),
                rotation_about(1.2 + 0 * t, "x"),
            ),
        )
    )


def test_rays_are_unit_and_the_middle_one_looks_forward():
    origin, rays = camera().rays(65, 65)
    torch.testing.assert_close(rays.norm(dim=-1), torch.ones(1, 65, 65, dtype=torch.float64))
    expected = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(rays[0, 32, 32], expected, atol=1e-12, rtol=0)
    assert rays[0, 0, 32, 2] > 0 > rays[0, 64, 32, 2]  # up in the picture is up in the world
    assert rays[0, 32, 64, 0] > 0
    assert origin.tolist() == [[0.0, -5.0, 2.0]]


def test_a_sphere_covers_its_solid_angle_at_its_distance():
    out = render(Scene((body("ball", "sphere", (0.0, 0.0, 2.0), 0.8, RED),)), camera(), 200, 200)
    mine = out.ids[0] == 0
    radius = math.tan(math.asin(0.8 / 5)) * 200 / (2 * math.tan(math.radians(30)))
    assert abs(mine.sum().item() - math.pi * radius**2) / (math.pi * radius**2) < 0.02
    assert abs(out.depth[0][mine].min().item() - 4.2) < 1e-3


@pytest.mark.parametrize("turn", [None, rotation_about(torch.tensor([math.pi / 2], dtype=torch.float64), "z")])
def test_a_box_covers_its_face(turn):
    half = (0.5, 0.25, 1.0) if turn is None else (0.25, 0.5, 1.0)  # turned a quarter about z, it is the same box
    out = render(Scene((body("box", "box", (0.0, 0.0, 2.0), half, RED, turn),)), camera(), 200, 200)
    mine = out.ids[0] == 0
    scale = 200 / (2 * math.tan(math.radians(30))) / 4.75
    assert abs(mine.any(0).sum().item() - scale) <= 2
    assert abs(mine.any(1).sum().item() - 2 * scale) <= 2


def test_a_cylinder_is_a_circle_from_above_and_a_bar_from_the_side():
    scene = Scene((body("post", "cylinder", (0.0, 0.0, 2.0), (0.5, 0.5, 1.0), RED),))
    side = render(scene, camera(), 200, 200).ids[0] == 0
    width = 2 * 0.5 / math.sqrt(25 - 0.25) * 200 / (2 * math.tan(math.radians(30)))
    assert abs(side[100].sum().item() - width) <= 2
    flat = Scene(
        (
            body(
                "post",
                "cylinder",
                (0.0, 0.0, 2.0),
                (0.5, 0.5, 1.0),
                RED,
                rotation_about(torch.tensor([math.pi / 2]), "x"),
            ),
        )
    )
    disc = render(flat, camera(), 200, 200).ids[0] == 0
    radius = 0.5 / 4.0 * 200 / (2 * math.tan(math.radians(30)))
    assert abs(disc.sum().item() - math.pi * radius**2) / (math.pi * radius**2) < 0.03


def test_a_plane_is_seen_from_its_front_only():
    up = render(Scene((FLOOR,)), camera(), 32, 32)
    assert (up.ids[0, -1] == 0).all() and (up.ids[0, 0] == SKY_ID).all() and up.depth[0, 0].isinf().all()
    below = render(Scene((FLOOR,)), camera((0.0, -5.0, -1.0), (0.0, 0.0, 0.5)), 32, 32)
    assert (below.ids == SKY_ID).all()
    wall = body(
        "wall", "plane", (0.0, 3.0, 0.0), 1.0, RED, rotation_about(torch.tensor([math.pi / 2]), "x")
    )  # faces -y
    depth = render(Scene((wall,)), camera(), 33, 33).depth[0, 16, 16]
    assert abs(depth - 8.0) < 1e-5


def test_shadow_pattern_and_gain():
    ball = body("ball", "sphere", (0.0, 0.0, 0.6), 0.5, RED)
    floor = render(Scene((FLOOR, ball)), camera(), 120, 120)
    lit = floor.rgb[0][floor.ids[0] == 0]
    assert lit.min() < 0.5 * lit.max()  # part of the floor lies in shadow
    tiles = body("floor", "plane", (0.0, 0.0, 0.0), 1.0, (0.5, 0.5, 0.5), checker=1.0)
    squares = render(Scene((tiles,)), camera(), 120, 120)
    near = squares.rgb[0, -20:, :, 0]
    assert near.unique().numel() > 2 and abs(near.min() / near.max() - 0.7) < 1e-3
    gain = torch.tensor([1.0, 0.25, 0.0])
    dim = render(Scene((FLOOR, ball), gain=gain), camera(), 32, 32)
    torch.testing.assert_close(dim.rgb, dim.rgb[:1] * gain[:, None, None, None])
    assert torch.equal(dim.ids[0], dim.ids[2])


def test_frames_do_not_depend_on_each_other():
    scene, size = busy(5), 40
    together = render(scene, camera(), size, size)
    for frame in range(5):
        alone = [body(b.name, b.shape, *(x[frame] if len(x) > 1 else x for x in (b.centre, b.half, b.colour)),
                      None if b.rotation is None else b.rotation[frame], b.checker) for b in scene.bodies]  # fmt: skip
        for one, all_ in zip(render(Scene(tuple(alone)), camera(), size, size), together, strict=True):
            assert torch.equal(one[0], all_[frame])


def test_the_order_of_bodies_changes_their_ids_alone():
    scene = busy()
    out, back = render(scene, camera(), 48, 48), render(Scene(scene.bodies[::-1]), camera(), 48, 48)
    torch.testing.assert_close(out.rgb, back.rgb, atol=1e-6, rtol=0)
    seen = out.ids >= 0
    assert torch.equal(len(scene.bodies) - 1 - out.ids[seen], back.ids[seen])


@given(angle=st.floats(-3.0, 3.0), x=st.floats(-20, 20), y=st.floats(-20, 20))
@settings(max_examples=12, deadline=None)
def test_a_common_rigid_motion_changes_neither_depth_nor_ids(angle, x, y):
    scene, view = busy(1), camera()
    turn, shift = (
        rotation_about(torch.tensor([angle], dtype=torch.float64), "z")[0],
        torch.tensor([x, y, 0.0], dtype=torch.float64),
    )
    eye = torch.eye(3, dtype=torch.float64)
    bodies = [body(b.name, b.shape, b.centre @ turn.T + shift, b.half, b.colour,
                   turn @ (eye if b.rotation is None else b.rotation), b.checker) for b in scene.bodies]  # fmt: skip
    c2w = view.c2w.clone()
    c2w[:, :3, :3], c2w[:, :3, 3] = turn @ c2w[:, :3, :3], c2w[:, :3, 3] @ turn.T + shift
    moved = render(Scene(tuple(bodies)), Cameras(c2w, view.intrinsics), 32, 32)
    still = render(scene, view, 32, 32)
    assert torch.equal(moved.ids, still.ids)
    torch.testing.assert_close(moved.depth, still.depth, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_four_rays_at_edges_are_nearly_sixteen_everywhere(device):
    scene, view = busy(), camera(device=device)
    fine = render(scene, view, 256, 256, antialias=False).rgb.view(3, 64, 4, 64, 4, 3).mean((2, 4))
    rough = render(scene, view, 64, 64, antialias=False).rgb
    ours = render(scene, view, 64, 64).rgb
    assert (ours - fine).pow(2).mean() < 0.15 * (rough - fine).pow(2).mean()


def test_rounding_elsewhere_changes_no_byte():
    """Another machine's last bits are a millionth of a micrometre here; the picture is the same to 1/255."""
    scene = busy()
    for seed in range(3):
        noise = torch.Generator().manual_seed(seed)
        bodies = [body(b.name, b.shape, b.centre + 1e-12 * torch.randn(b.centre.shape, generator=noise), b.half,
                       b.colour, b.rotation, b.checker) for b in scene.bodies]  # fmt: skip
        a, b = render(scene, camera()).rgb, render(Scene(tuple(bodies)), camera()).rgb
        assert (a - b).abs().max() <= 1 / 255


@pytest.mark.parametrize("device", DEVICES)
def test_the_pictures_are_those_of_another_machine(device):
    """golden.npz was rendered once, on one machine; regenerate it only when the renderer is meant to change."""
    golden = np.load(Path(__file__).with_name("golden.npz"))["busy"]
    ours = (render(busy(), camera(device=device)).rgb.cpu() * 255).round().byte().numpy()
    assert np.abs(ours.astype(int) - golden.astype(int)).max() <= 1


def test_disagreeing_frames_are_refused():
    two, three = torch.zeros(2, 3), torch.zeros(3, 3)
    with pytest.raises(InputError, match=r"\[2, 3\]"):
        render(Scene((body("a", "sphere", two, 1.0, RED), body("b", "sphere", three, 1.0, RED))), camera())
    with pytest.raises(InputError, match="2 frames of a scene and 3 cameras"):
        several = Cameras(camera().c2w.expand(3, 4, 4), camera().intrinsics.expand(3, 4))
        render(Scene((body("a", "sphere", two, 1.0, RED),)), several)
    with pytest.raises(InputError, match="No body 'x'"):
        Scene((FLOOR,)).index("x")
