"""Long videos in a bank, as chunks with cameras: how they are added, and the past of a chunk as a `History`.

Chunk i of the video NAME is the clip ``NAME/chunk-00i``, with the cameras of its latent frames. It begins with the last
frame of the chunk before. ``NAME/chunk-00i/frames`` has the frames that stand at its latent frames, each encoded alone,
which methods such as `RetrievedContext` choose among.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from memkit.backbones.codec import WanCodec
from memkit.banks.bank import MemoryBank
from memkit.banks.clip import stack_clips
from memkit.cameras.cameras import Cameras
from memkit.cameras.pose_files import latent_cameras
from memkit.display import with_shapes
from memkit.rollout.base import Keeps
from memkit.rollout.history import History
from memkit.video.pixels import to_model


class Chunk(NamedTuple):
    """Frames of a chunk, its caption, and one camera per frame, or None where they are unknown."""

    frames: UInt8[Tensor, "frames height width 3"]
    caption: str
    cameras: Cameras | None

    __repr__ = with_shapes


class ChunkIndex(NamedTuple):
    """Chunk ``index`` of the video ``name``, of which ``past`` chunks before it are context."""

    name: str
    index: int
    past: int


def chunk_id(name: str, index: int) -> str:
    """Id of a chunk."""
    return f"{name}/chunk-{index:03d}"


def frames_id(name: str, index: int) -> str:
    """Id of the frames of a chunk that stand at latent frames, each encoded alone."""
    return f"{name}/chunk-{index:03d}/frames"


def name_of(id: str) -> str:
    """Name of the video of an id of either kind."""
    return id.rsplit("/chunk-", 1)[0]


def add_video(
    bank: MemoryBank, name: str, chunks: Iterable[Chunk], codec: WanCodec, dtype: torch.dtype = torch.float16
) -> None:
    """Add the chunks of a video that a bank lacks, in order; the ids of what it has are not encoded again.

    Latents are stored in ``dtype``: Wan's lie well inside the range of float16, which is more precise than bfloat16.
    """
    stride = codec.vae.config.scale_factor_temporal
    for index, chunk in enumerate(chunks):
        cameras = chunk.cameras and latent_cameras(chunk.cameras, stride)
        if (id := chunk_id(name, index)) not in bank:
            latents = codec.encode_video(to_model(chunk.frames))[0]
            bank.add(id, latents.to(dtype).cpu(), chunk.caption, name, cameras)
        if (id := frames_id(name, index)) not in bank:
            images = to_model(chunk.frames[::stride])[0].movedim(1, 0)[:, :, None]
            alone = torch.cat([codec.encode_video(image[None])[0] for image in images], dim=1)
            bank.add(id, alone.to(dtype).cpu(), chunk.caption, name, cameras)


class LongVideos:
    """The long videos of a bank; ``counts`` has the number of complete chunks of each, by name.

    Args:
        bank: a bank filled by `add_video`.
        posed: whether to return the cameras of the chunks.
    """

    def __init__(self, bank: MemoryBank, posed: bool = True) -> None:
        self.bank, self.posed = bank, posed
        present = set(bank.ids)
        self.counts = dict.fromkeys((name_of(id) for id in bank.ids), 0)
        for name in self.counts:
            while {chunk_id(name, self.counts[name]), frames_id(name, self.counts[name])} <= present:
                self.counts[name] += 1

    def draw(self, past: int, rng: random.Random) -> ChunkIndex:
        """A random chunk that has ``past`` chunks before it, of a random one of the videos that are long enough."""
        name = rng.choice([name for name, count in self.counts.items() if count > past])
        return ChunkIndex(name, rng.randrange(past, self.counts[name]), past)

    def chunks(self, ids: Sequence[str]) -> tuple[Float[Tensor, "batch channels frames height width"], Cameras | None]:
        """Latents in float32, and cameras [batch, frames] if they are known."""
        latents, cameras = stack_clips([self.bank.clip(id) for id in ids])
        return latents, cameras if self.posed else None

    def history(self, targets: Sequence[ChunkIndex], keeps: Keeps) -> History:
        """The past of chunks that have equally many chunks of it, as a method that keeps these latents takes it."""
        history, time = History(), 0
        for back in range(targets[0].past, 0, -1):
            id_of = chunk_id if keeps == "chunks" else frames_id
            latents, cameras = self.chunks([id_of(target.name, target.index - back) for target in targets])
            kept = slice(1 if keeps == "frames" and len(history) else 0, None)  # chunks share a frame
            count = latents.shape[2]
            times = range(time, time + count)[kept]
            seen = cameras and Cameras(cameras.c2w[:, kept], cameras.intrinsics[:, kept])
            history.add(latents[:, :, kept], seen, list(times))
            time += count - 1
        return history
