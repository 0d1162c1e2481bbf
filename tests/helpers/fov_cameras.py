"""Cameras for the tests of retrieval by field of view, and strategies that draw them."""

import math

import torch
from hypothesis import strategies as st

from memkit.cameras import Cameras
from memkit.retrievers import FOVRetriever, Points, Rays, Sector

FOV = 50.0
FEW = Points(count=3000)
RULES = {"sector": Sector(), "trapezoid": Sector(near=1.5), "points": FEW, "rays": Rays()}

metres = st.floats(-8, 8)
angle = st.floats(-math.pi, math.pi)
poses = st.tuples(metres, metres, metres, angle)
many_poses = st.lists(poses, min_size=1, max_size=12)


def cameras(places, fov=FOV):
    """Upright cameras at (x, y, z, yaw), yaw in radians from +x to the left."""
    x, y, z, yaw = torch.tensor(places, dtype=torch.float64).view(-1, 4).T
    eye = torch.stack([x, y, z], -1)
    looking = Cameras.look_at(eye, eye + torch.stack([yaw.cos(), yaw.sin(), 0 * yaw], -1), fov)
    return Cameras(looking.c2w, looking.intrinsics.clone())


def one(x=0.0, y=0.0, z=0.0, yaw=0.0, fov=FOV):
    all_of_it = cameras([(x, y, z, yaw)], fov)
    return Cameras(all_of_it.c2w[0], all_of_it.intrinsics[0])


def moved(cams, motion):
    return Cameras(motion @ cams.c2w, cams.intrinsics)


def rigid(axis_angle, shift):
    motion = torch.eye(4, dtype=torch.float64)
    x, y, z = axis_angle
    motion[:3, :3] = torch.linalg.matrix_exp(torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64))
    motion[:3, 3] = torch.tensor(shift, dtype=torch.float64)
    return motion


def share(frame, query, rule="sector", **given):
    return FOVRetriever(Cameras(frame.c2w[None], frame.intrinsics[None]), rule, **given).overlap(query).item()


def circle(turns=2, steps=24):
    """Frames that turn on the spot."""
    return [(0, 0, 0, 2 * math.pi * i / steps) for i in range(turns * steps)]
