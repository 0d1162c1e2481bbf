"""Inputs of a small model with a KVCache, and the dense forward pass that streaming equals."""

import torch

from memkit.injectors import KVCache, frame_bytes
from tests.helpers.dense_attention import DenseSelfAttention
from tests.helpers.random_wan import SMALL, random_transformer

TOKENS = 4  # per latent frame of 4×4
TIGHT = {"rtol": 0, "atol": 1e-5}


def latents(frames, batch=2, seed=1):
    return torch.randn(batch, 16, frames, 4, 4, generator=torch.Generator().manual_seed(seed))


def text(batch=2):
    return torch.randn(batch, 6, SMALL["text_dim"], generator=torch.Generator().manual_seed(9))


def run(model, x, timestep=(700.0, 150.0), prompt=None):
    return model(x, torch.tensor(timestep)[: len(x)], text(len(x)) if prompt is None else prompt, return_dict=False)[0]


def new_cache(model, frames=64, batch=2, branches=("main",)):
    """With room for ``frames`` latent frames of 4×4 per branch."""
    return KVCache(frames * len(branches) * frame_bytes(model, 4, 4, batch), branches)


def stream(model, attached, x, chunks, reads=None, **more):
    """Runs and writes one chunk after another; returns their outputs, concatenated.

    ``chunks`` holds the positions of each chunk, ``reads`` the positions that each chunk reads (default: all).
    """
    outs, start = [], 0
    with torch.no_grad():
        for i, positions in enumerate(chunks):
            read = None if reads is None else reads[i]
            with attached.chunk(positions, read=read, write=True, **more):
                outs.append(run(model, x[:, :, start : start + len(positions)]))
            start += len(positions)
    return torch.cat(outs, dim=2)


def dense(x, chunks, reads, seed=0):
    """The whole sequence in one forward pass; chunk i sees itself and the positions ``reads[i]``."""
    positions = [p for chunk in chunks for p in chunk]
    allowed = torch.zeros(len(positions), len(positions), dtype=torch.bool)
    row = 0
    for chunk, read in zip(chunks, reads, strict=True):
        seen = [positions.index(p) for p in (*chunk, *read)]
        for _ in chunk:
            allowed[row, seen] = True
            row += 1
    model = random_transformer(seed)
    allowed = allowed.repeat_interleave(TOKENS, 0).repeat_interleave(TOKENS, 1)
    for block in model.blocks:
        block.attn1.set_processor(DenseSelfAttention(positions, allowed))
    with torch.no_grad():
        return run(model, x)


def earlier(chunks):
    """For each chunk, the positions of all chunks before it."""
    return [[p for chunk in chunks[:i] for p in chunk] for i in range(len(chunks))]


def fill(model, attached):
    """Writes three frames at positions 0, 1 and 2."""
    with torch.no_grad(), attached.chunk([0, 1, 2], write=True):
        run(model, latents(3))


def same_slots(a, b):
    """Whether both hold the same positions, pins, keys and values."""
    if a.positions != b.positions or a.pinned != b.pinned or a.layers != b.layers:
        return False
    return all(torch.equal(x, y) for i in range(a.layers) for x, y in zip(a.get(i), b.get(i), strict=True))
