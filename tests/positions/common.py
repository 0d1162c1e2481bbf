"""Random cameras and a small model for the tests of camera positions."""

import torch
from diffusers.models.transformers.transformer_wan import WanAttnProcessor

from memkit.cameras import CameraPath, Cameras
from memkit.positions import PMRoPE, PMRoPEConfig
from tests.helpers.random_wan import SMALL

HEADS, DIM, TOKENS = SMALL["num_attention_heads"], SMALL["attention_head_dim"], 4
SIZES = (SMALL["num_layers"], HEADS, DIM)
TIGHT = {"rtol": 0, "atol": 1e-5}


def seeded(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rotations(*shape, seed=0):
    q = torch.linalg.qr(seeded(*shape, 3, 3, seed=seed, dtype=torch.float64)).Q
    return q * torch.linalg.det(q)[..., None, None]


def cameras(frames, batch=2, seed=3, dtype=torch.float64):
    c2w = torch.eye(4, dtype=torch.float64).repeat(batch, frames, 1, 1)
    c2w[..., :3, :3] = rotations(batch, frames, seed=seed)
    c2w[..., :3, 3] = 3 * seeded(batch, frames, 3, seed=seed + 1, dtype=torch.float64) + 7
    focal = seeded(batch, frames, 2, seed=seed + 2, dtype=torch.float64).abs() + 0.5
    return Cameras(c2w.to(dtype), torch.cat([focal, torch.full_like(focal, 0.4)], -1).to(dtype))


def moved(cams, turn=None, shift=None, scale=1.0):
    """The same cameras in another world coordinate system."""
    world = torch.eye(4, dtype=torch.float64)
    world[:3, :3] = torch.eye(3) if turn is None else turn
    world[:3, 3] = torch.zeros(3) if shift is None else shift
    c2w = cams.c2w.clone()
    c2w[..., :3, 3] *= scale
    return Cameras(world @ c2w, cams.intrinsics)


def raw_path(cams):
    """A path of the poses as they are, not relative to the first camera."""
    return CameraPath(cams.c2w, cams.intrinsics[..., :2], cams.intrinsics[..., 2:] - 0.5)


def latents(frames, batch=2, seed=1):
    return seeded(batch, 16, frames, 4, 4, seed=seed)


def run(model, x):
    text = seeded(len(x), 6, SMALL["text_dim"], seed=9).to(x.dtype)
    return model(x, torch.tensor([700.0, 150.0])[: len(x)], text, return_dict=False)[0]


def random_pm_rope(mode="full"):
    """A PMRoPE with random parameters, so that cameras change the output."""
    pm = PMRoPE(PMRoPEConfig(*SIZES, mode))
    for i, parameter in enumerate(pm.parameters()):
        parameter.data = 0.15 * seeded(*parameter.shape, seed=20 + i)
    return pm


def path_by_definition(cams, principal_point=False):
    """Vectors [B, F, 14] and projections [B, F, 4, 4] from their definition, clip by clip, with matrix inverses."""
    vectors, projections = [], []
    for c2w, intrinsics in zip(cams.c2w.double(), cams.intrinsics.double(), strict=True):
        fx, fy = intrinsics[:, 0], intrinsics[:, 1]
        pose = torch.linalg.inv(c2w[0]) @ c2w
        place = pose[:, :3, 3] - pose[:, :3, 3].mean(0)
        pose[:, :3, 3] = place / max(float(place.norm(dim=1).max()), 0.01)
        k = torch.diag_embed(torch.stack([fx, fy, torch.ones_like(fx), torch.ones_like(fx)], -1))
        if principal_point:
            k[:, :2, 2] = intrinsics[:, 2:] - 0.5
        logs = torch.stack([fx.log(), fy.log()], 1)
        vectors.append(torch.cat([pose[:, :3, 3], pose[:, :3, :3].reshape(-1, 9), logs], 1))
        projections.append(k @ torch.linalg.inv(pose))
    return torch.stack(vectors), torch.stack(projections)


def assert_untouched(model):
    assert all(type(block.attn1.processor) is WanAttnProcessor for block in model.blocks)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
