"""Which changes of the world, and of time, leave attention with cameras as it is."""

from functools import partial

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memkit.backbones.adapters.wan import WAN
from memkit.cameras import CameraPath
from memkit.positions import PRoPE
from tests.helpers.random_wan import random_transformer
from tests.positions.common import DIM, HEADS, cameras, moved, random_pm_rope, raw_path, rotations, seeded


def layer_of(positions, model):
    with positions.attach(model):
        return model.blocks[1].attn1.processor.positioning


def inputs(frames, start=0):
    """q, k, v of one token per frame in float64, and rotary tables of frames at start, start + 1, …"""
    q, k, v = seeded(3, 1, frames, HEADS, DIM, seed=7, dtype=torch.float64)
    angle = torch.arange(start, start + frames).double()[:, None] * 10000.0 ** (-torch.arange(12).double() / 12)
    angle = angle.repeat_interleave(2, 1)[None, :, None]
    return q, k, v, (angle.cos(), angle.sin())


def scores_and_values(positions, model, path, start=0):
    q, k, v = layer_of(positions, model).enter(*inputs(len(path), start), path)
    return torch.einsum("bqhd,bkhd->bhqk", q, k), v


def largest(a, b):
    return float((a - b).detach().abs().max())


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.integers(-200, 200))
def test_scores_are_invariant_to_translation_and_time_shift_but_to_rotation_only_in_first_frame_poses(seed, start):
    model, cams = random_transformer(), cameras(5, batch=1, seed=seed)
    turn, shift = rotations(seed=seed + 50), 10 * seeded(3, seed=seed, dtype=torch.float64)
    pm = random_pm_rope().double()
    here, values = scores_and_values(pm, model, raw_path(cams))
    assert largest(scores_and_values(pm, model, raw_path(moved(cams, shift=shift)))[0], here) < 1e-12
    assert largest(scores_and_values(pm, model, raw_path(cams), start)[0], here) < 1e-12
    assert largest(scores_and_values(pm, model, raw_path(moved(cams, turn=turn)))[0], here) > 1e-3
    first, values = scores_and_values(pm, model, CameraPath.of(cams))
    again = scores_and_values(pm, model, CameraPath.of(moved(cams, turn, shift, scale=5.0)))
    assert largest(again[0], first) < 1e-12 and largest(again[1], values) < 1e-12


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.booleans())
def test_prope_is_invariant_to_any_common_world_transform(seed, authors):
    model, cams = random_transformer().double(), cameras(5, batch=1, seed=seed)

    def output(path):
        layer = layer_of(PRoPE(rotate_values=authors, principal_point=authors), model)
        *own, rotary = inputs(5)
        at = layer.at(path, rotary)
        q, k, v = layer.enter(*own, rotary, at)
        weights = (torch.einsum("bqhd,bkhd->bhqk", q, k) / 100).softmax(-1)
        project = partial(WAN.project_out, model.blocks[1].attn1)
        return layer.leave(torch.einsum("bhqk,bkhd->bqhd", weights, v), project, at)

    world = {"turn": rotations(seed=seed + 50), "shift": 10 * seeded(3, seed=seed, dtype=torch.float64)}
    here = output(raw_path(cams))
    assert largest(output(raw_path(moved(cams, **world))), here) < 1e-10
    assert largest(output(raw_path(cameras(5, batch=1, seed=seed + 9))), here) > 1e-3
