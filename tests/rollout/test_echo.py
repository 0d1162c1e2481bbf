"""Long videos by Echo-Memory: chunks of new frames, each with single frames before it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from memkit.backbones import WanBackbone
from memkit.cameras import Cameras, from_echo_poses, latent_cameras, level_camera, relative_pose_vectors, to_echo_poses
from memkit.cameras.echo_poses import echo_yaw
from memkit.errors import InputError
from memkit.generation import generate_latents
from memkit.generation.noise import frame_noise
from memkit.injectors.echo_memory import ROWS, EchoMemory
from memkit.rollout import LAYOUTS, EchoContext, History, Rollout
from tests.helpers.attachables import seeded

FRAMES = 9


@pytest.fixture(scope="module")
def backbone(random_folder) -> WanBackbone:
    backbone = WanBackbone.from_pretrained(random_folder)
    backbone.pipeline().set_progress_bar_config(disable=True)
    return backbone


def memory(row: str) -> EchoMemory:
    memory = EchoMemory(replace(ROWS[row](), dim=48, blocks=3, heads=2))
    for i, parameter in enumerate(memory.parameters()):
        parameter.data = parameter.data + 0.1 * seeded(*parameter.shape, seed=20 + i)
    return memory.eval().requires_grad_(False)


def turn(degrees: float, start: torch.Tensor | None = None) -> Cameras:
    """A chunk of cameras that turn left on the spot, from the pose at which another one has ended."""
    first = level_camera(32, 32, 60.0)
    c2w = (first.c2w.float() if start is None else start) @ from_echo_poses(echo_yaw(degrees, FRAMES))
    return Cameras(c2w[None], first.intrinsics.float().expand(1, FRAMES, 4))


def first(cameras: Cameras) -> Cameras:
    return Cameras(cameras.c2w[:, :1], cameras.intrinsics[:, :1])


@torch.no_grad()
@pytest.mark.parametrize("row", ROWS)
def test_a_rollout_is_what_one_would_write_by_hand(backbone, row) -> None:
    layout, parts = LAYOUTS[row], memory(row)
    if row == "block_wise_ssm_causal_v2":
        layout = replace(layout, frames=2)  # fewer than those of the chunk
    image = torch.randint(0, 256, (1, 1, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))
    there = turn(45)
    back = turn(-45, there.c2w[0, -1])
    rollout = Rollout(backbone, EchoContext(parts, layout), seeds=[5], steps=1, guidance_scale=1.0)
    rollout.observe(image, first(there))
    one = rollout.generate(["a room"], there)
    assert rollout.shown_times is not None and rollout.shown_times.tolist() == [[0]]
    two = rollout.generate(["a room"], back)
    assert one.shape == two.shape == (1, FRAMES, 32, 32, 3) and not torch.equal(one, two)
    wanted = {"context_k1": [9], "framepack_len_r8": [*range(10)], "block_wise_ssm_causal_v2": [7, 8]}[row]
    assert rollout.shown_times.tolist() == [wanted]

    seen, at = torch.cat([image, one], dim=1), torch.cat([there.c2w[:, :1], there.c2w], dim=1)
    context = torch.cat([backbone.encode_video(seen[:, i : i + 1].movedim(-1, 1) / 127.5 - 1) for i in wanted], dim=2)
    own = latent_cameras(back).c2w
    poses = relative_pose_vectors(torch.cat([own, at[:, wanted]], dim=1))
    past = poses[:, :1].expand(-1, len(wanted), -1) if row == "context_k1" else poses[:, 3:]
    target = to_echo_poses(poses[:, :3], layout.target_scale)
    chunk = (target, context, to_echo_poses(past, layout.context_scale))
    noise = frame_noise([5], "noise", range(3, 6), (16, 4, 4))
    with parts.attach(backbone.transformer) as attached, attached.chunk(*chunk):
        latents = generate_latents(backbone, ["a room"], noise=noise, steps=1, guidance_scale=1.0)
    want = backbone.decode_latents(latents)[0].movedim(0, -1)
    assert (two[0] / 127.5 - 1 - want).abs().max() < 1 / 127


@torch.no_grad()
def test_a_past_that_is_given_may_have_any_length_and_its_budget_holds(backbone) -> None:
    method = EchoContext(memory("context_k1"), LAYOUTS["context_k1"])
    rollout = Rollout(backbone, method, seeds=[1], steps=1, guidance_scale=1.0, budget=3000)
    video = torch.zeros(1, 5, 32, 32, 3, dtype=torch.uint8)
    cameras = turn(10)
    rollout.observe(video, Cameras(cameras.c2w[:, :5], cameras.intrinsics[:, :5]))
    assert rollout.history.times == (4,)
    for _ in range(3):
        rollout.generate(["a room"], cameras)
    assert rollout.history.times[-1] == 5 + 3 * FRAMES - 1 and rollout.history.nbytes <= 3000
    assert method.choose(History(), cameras) is None
    given = {"noise": torch.zeros(1, 16, 3, 4, 4), "text": torch.zeros(1, 5, 32), "cameras": None, "selection": None}
    noisy = method.shown(backbone.transformer, **given, context_timesteps=torch.zeros(1, 1))
    with pytest.raises(InputError, match="no context_timesteps"), noisy:
        pass
