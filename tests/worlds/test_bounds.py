"""No point of a body is seen or shades outside the rectangle that stands for it."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memkit.cameras import Cameras
from memkit.worlds.bounds import along, box_corners, on_screen, shadows
from memkit.worlds.scene import rotation_about


@given(seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_points_of_boxes_are_seen_and_shade_within_their_bounds(seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return 2 * torch.rand(*shape, generator=generator, dtype=torch.float64) - 1

    bodies, frames, points = 5, 3, 400
    centre, half = 3 * draw(bodies, frames, 3), 2 * draw(bodies, frames, 3).abs() + 0.01
    turn = rotation_about(3 * draw(bodies * frames), "x") @ rotation_about(3 * draw(bodies * frames), "z")
    turn = turn.unflatten(0, (bodies, frames))
    view = Cameras.look_at(2 * draw(frames, 3), 4 + draw(frames, 3), 50.0)  # some eyes are in or between bodies
    corners = box_corners(centre, half, turn)
    inside = (draw(bodies, frames, points, 3) * half[:, :, None]) @ turn.mT + centre[:, :, None]

    low, high = on_screen(corners, view.c2w, view.intrinsics)
    seen = (inside - view.c2w[:, None, :3, 3]) @ view.c2w[:, :3, :3]
    ahead = seen[..., 2:] > 1e-6
    spot = seen[..., :2] / seen[..., 2:] * view.intrinsics[:, None, :2] + view.intrinsics[:, None, 2:]
    assert ((spot > low[:, :, None]) & (spot < high[:, :, None]) | ~ahead).all()
    behind = (corners - view.c2w[:, None, :3, 3]) @ view.c2w[:, :3, 2:3].expand(frames, 3, 1) < 0
    assert (low.isposinf().all(-1) == behind.all((2, 3))).all()

    light = torch.nn.functional.normalize(draw(3) + torch.tensor([0.0, 0.0, 2.0]), dim=0)
    low, high = shadows(corners, light)
    shaded = inside - light * draw(bodies, frames, points, 1).abs()
    for i, place in enumerate(along(shaded.unbind(-1), light)):
        assert (place > low[:, i, None, None]).all() and (place < high[:, i, None, None]).all()
