"""The ray caster against geometry that can be written down."""

import math

import torch

from memkit.cameras import Cameras
from memkit.worlds import Scene, render
from memkit.worlds.render import FLOOR_ID, SKY_ID


def scene(centre, half, is_sphere):
    return Scene(
        centre=torch.tensor([centre])[None],
        half=torch.tensor([half])[None],
        colour=torch.tensor([[1.0, 0.0, 0.0]]),
        is_sphere=(is_sphere,),
        floor_colour=torch.tensor([0.5, 0.5, 0.5]),
        sky_colour=torch.tensor([0.2, 0.4, 0.9]),
    )


def camera():
    return Cameras.look_at(torch.tensor([[0.0, -5.0, 2.0]]), torch.tensor([[0.0, 0.0, 2.0]]), fov_degrees=60.0)


def test_rays_are_unit_and_the_middle_one_looks_forward():
    origin, rays = camera().rays(65, 65)
    torch.testing.assert_close(rays.norm(dim=-1), torch.ones(1, 65, 65))
    torch.testing.assert_close(rays[0, 32, 32], torch.tensor([0.0, 1.0, 0.0]), atol=1e-6, rtol=0)
    assert rays[0, 0, 32, 2] > 0 > rays[0, 64, 32, 2]  # up in the picture is up in the world
    assert rays[0, 32, 64, 0] > 0
    assert origin.tolist() == [[0.0, -5.0, 2.0]]


def test_a_sphere_covers_its_solid_angle_at_its_distance():
    out = render(scene([0.0, 0.0, 2.0], [0.8, 0.8, 0.8], True), camera(), 200, 200, supersample=1)
    mine = out.ids[0] == 0
    radius = math.tan(math.asin(0.8 / 5)) * 200 / (2 * math.tan(math.radians(30)))
    assert abs(mine.sum().item() - math.pi * radius**2) / (math.pi * radius**2) < 0.02
    assert abs(out.depth[0][mine].min().item() - 4.2) < 1e-3


def test_a_box_covers_its_face():
    out = render(scene([0.0, 0.0, 2.0], [0.5, 0.25, 1.0], False), camera(), 200, 200, supersample=1)
    mine = out.ids[0] == 0
    scale = 200 / (2 * math.tan(math.radians(30))) / 4.75
    assert abs(mine.any(0).sum().item() - scale) <= 2
    assert abs(mine.any(1).sum().item() - 2 * scale) <= 2


def test_sky_floor_and_shadow():
    out = render(scene([0.0, 0.0, 0.6], [0.5, 0.5, 0.5], True), camera(), 120, 120)
    assert (out.ids[0, 0] == SKY_ID).all() and out.depth[0, 0].isinf().all()
    assert (out.ids[0, -1] == FLOOR_ID).all()
    floor = out.rgb[0][out.ids[0] == FLOOR_ID]
    assert floor.min() < 0.5 * floor.max()  # part of the floor lies in shadow
    assert out.rgb.min() >= 0 and out.rgb.max() <= 1


def test_frames_do_not_depend_on_each_other():
    one, two = scene([0.0, 0.0, 2.0], [0.5] * 3, True), scene([0.7, 0.0, 1.0], [0.5] * 3, True)
    both = Scene(torch.cat([one.centre, two.centre]), torch.cat([one.half, two.half]), one.colour, one.is_sphere,
                 one.floor_colour, one.sky_colour)  # fmt: skip
    together = render(both, camera(), 32, 32).rgb
    assert torch.equal(together[0], render(one, camera(), 32, 32).rgb[0])
    assert torch.equal(together[1], render(two, camera(), 32, 32).rgb[0])
