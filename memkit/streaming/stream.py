"""`Stream`: videos of any length from a causal Wan, chunk by chunk, remembered in a `KVCache`.

Each chunk is denoised with what it reads of the cache, then passed once more, clean, and written with the same history
visible: what training by `TeacherForcing` shows of clean chunks (ReMind, arXiv 2605.25333). The model is any stock Wan;
one that was not trained for it runs as well, and what it makes is then no better than its training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.backbones.wan import WanBackbone
from memkit.cameras.cameras import Cameras
from memkit.cameras.path import CameraPath
from memkit.errors import InputError
from memkit.generation.short_text import PIPELINE_TEXT_LENGTH, embed_short, short_texts
from memkit.injectors.attention_recorder import AttentionRecorder
from memkit.injectors.kv_cache.attachment import AttachedCache
from memkit.injectors.kv_cache.cache import KVCache
from memkit.positions.pm_rope import PMRoPE
from memkit.positions.prope import PRoPE
from memkit.streaming.config import StreamConfig
from memkit.streaming.noise import frame_noise
from memkit.streaming.read_policies import Read, read_everything
from memkit.streaming.session import damaged, load_stream, save_stream
from memkit.streaming.steps import COND, UNCOND, ChunkSteps


class Stream:
    """Some videos that grow by a chunk a call, all of them at once.

        stream = Stream(backbone, seeds=[1, 2], budget_bytes=21 * frame_bytes(backbone.transformer, 60, 104, 2))
        first = stream.generate(prompts, known=image_latents)  # a prompt a video; given frames stay as they are
        for prompts in later:
            chunk = stream.generate(prompts)

    The transformers are the stock ones between calls. What else is attached to them, such as memory tokens, is at work
    in every call. Frames are at ``position``, ``position`` + 1, …: set it to leave a gap, or back to make a chunk anew.

    A change of prompt needs no more than the new prompt: stock Wan reads the text afresh in each call, so none of it is
    stale. Cached frames keep what the old prompt made of them.

    Args:
        backbone: a Wan whose input are latents alone. Both experts of an A14B take their share of the noise levels, and
            both write.
        seeds: one a video. The noise of a frame follows from seed and position alone and is drawn on the CPU, so a
            video does not depend on its companions, up to the rounding of a larger batch, nor on the device.
        budget_bytes: of the cache, all branches together; see `frame_bytes`. Where it is full, the frames of the lowest
            positions go, but for pinned ones.
        read: what a chunk reads; see `memkit.streaming.read_policies`.
        cameras: of the latent frames of the whole video, [frames] or [B or 1, frames]: row p for position p. They are
            normalised once. With ``positions``, whose attached layers see them.
        size: height and width of the latents; those of the backbone's video format without.

    Raises:
        InputError: no seed, a model that takes more than latents, or cameras without positions or the other way round.
    """

    def __init__(
        self,
        backbone: WanBackbone,
        seeds: Sequence[int],
        budget_bytes: int,
        config: StreamConfig = StreamConfig(),  # noqa: B008  # frozen
        *,
        read: Read = read_everything,
        positions: PMRoPE | PRoPE | None = None,
        cameras: Cameras | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        model = backbone.transformer.config
        if not seeds:
            raise InputError("A stream makes one video a seed; give at least one.")
        if model.in_channels != model.out_channels:
            raise InputError("This model takes a mask and images beside the latents; a stream gives it latents alone.")
        if (positions is None) != (cameras is None):
            raise InputError("Cameras need camera positions, and those need cameras; give both or neither.")
        self.backbone, self.seeds, self.config, self.read = backbone, tuple(seeds), config, read
        self.cache = KVCache(budget_bytes, (COND,) if config.guidance_scale == 1 else (COND, UNCOND))
        self.position = 0
        self.size = _size(backbone) if size is None else size
        self._positions = positions
        self._path = None if cameras is None else CameraPath.of(cameras).to(backbone.device)
        self._texts: dict[tuple[str, ...], Tensor] = {}

    # -- what it makes -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[str],
        known: Float[Tensor, "rows channels known h w"] | None = None,
        frames: int | None = None,
        pin: bool = False,
        recorder: AttentionRecorder | None = None,
    ) -> Float[Tensor, "batch channels frames height width"]:
        """The next chunk's latents, fp32, normalised as by ``backbone.encode_video``; then written to the cache.

        Args:
            prompts: one a video, for this chunk.
            known: latents of its first frames, a row a video or one for all. They are written into every step, at
                timestep 0, and come back as given. Where all frames are known nothing is made, only written.
            frames: of this chunk; the config's without.
            pin: the chunk is never evicted: a sink, an anchor.
            recorder: if given, records where attention falls at each step, without the unconditional branch.

        Raises:
            InputError: prompts or known latents that do not fit, a position without a camera, a read of a frame that is
                not held. BudgetError: no room beside the pinned frames. Either way the stream can go on.
        """
        if len(prompts) != len(self.seeds):
            raise InputError(f"There are {len(prompts)} prompts for {len(self.seeds)} videos; give each one.")
        count = self._count() if frames is None else frames
        if count < 1:
            raise InputError(f"A chunk of {count} frames; give 1 or more.")
        at = range(self.position, self.position + count)
        with self._attached(at) as attached:
            text = self._encode(prompts)
            x = self._noise("noise", at)
            steps = ChunkSteps(self.backbone, self.cache, attached, self.config, self.read)
            x = steps.denoise(x, at, text, known, recorder) if _leaves_some(known, count) else _whole(x, known)
            steps.write(self._context(x, at), at, text, pin)
        self.position = at.stop
        return x

    def generate_all(
        self, prompts: Sequence[Sequence[str]], known: Float[Tensor, "rows channels known h w"] | None = None
    ) -> Float[Tensor, "batch channels frames height width"]:
        """As many chunks as there are entries of ``prompts``, each a prompt a video; ``known`` are the first frames.

        One known latent is image-to-video, six are video-to-video in ReMind; any number that the chunks hold will do.
        """
        room, given = self._count() + (len(prompts) - 1) * self.config.chunk, 0 if known is None else known.shape[2]
        if not prompts or given > room:
            raise InputError(
                f"{given} latent frames are known for {len(prompts)} chunks; give prompts for more chunks."
            )
        chunks, start = [], 0
        for each in prompts:
            stop = start + self._count()
            chunks.append(self.generate(each, None if known is None or start >= given else known[:, :, start:stop]))
            start = stop
        return torch.cat(chunks, dim=2)

    # -- a session on disk ---------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write cache, seeds, position and settings to ``folder``; what was saved there before is replaced as a whole.

        Raises `InputError` where it cannot be written.
        """
        content = {"seeds": self.seeds, "position": self.position, "size": self.size, "config": asdict(self.config)}
        save_stream(Path(folder), self.cache, content)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        backbone: WanBackbone,
        *,
        read: Read = read_everything,
        positions: PMRoPE | PRoPE | None = None,
        cameras: Cameras | None = None,
    ) -> Stream:
        """A saved stream, which goes on to the bit with the same model, ``read``, positions and cameras.

        Raises `InputError` where there is none, or it is damaged.
        """
        cache, content = load_stream(Path(folder), backbone.device)
        with damaged(folder):
            config, size = StreamConfig(**content["config"]), tuple(content["size"])
            seeds, position = [int(seed) for seed in content["seeds"]], int(content["position"])
        given = {"read": read, "positions": positions, "cameras": cameras, "size": size}
        stream = cls(backbone, seeds, cache.budget_bytes, config, **given)
        stream.cache, stream.position = cache, position
        return stream

    # -- what a chunk is given -----------------------------------------------------------------------------------------

    @contextmanager
    def _attached(self, at: range) -> Iterator[AttachedCache]:
        """Inside, all that a chunk at these positions needs is attached; the cache, attached."""
        models = self.backbone.transformers
        with ExitStack() as stack:
            cache = stack.enter_context(self.cache.attach(*models))
            if self._positions is not None and self._path is not None:
                cameras = stack.enter_context(self._positions.attach(*models))
                stack.enter_context(cameras.chunk(self._path.frames(at)))
            stack.enter_context(short_texts(models, self.config.text_length))
            yield cache

    def _encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Embeddings of both branches; only those of the newest prompts are kept."""
        wanted = {COND: tuple(prompts), UNCOND: (self.config.negative_prompt,) * len(prompts)}
        wanted = {branch: wanted[branch] for branch in self.cache.branches}
        self._texts = {
            each: self._texts[each] if each in self._texts else self._embed(each) for each in wanted.values()
        }
        return {branch: self._texts[each] for branch, each in wanted.items()}

    def _embed(self, texts: Sequence[str]) -> Tensor:
        length = self.config.text_length
        short = length < PIPELINE_TEXT_LENGTH
        return embed_short(self.backbone, texts, length) if short else self.backbone.encode_text(texts)

    def _noise(self, kind: str, at: range) -> Float[Tensor, "batch channels frames height width"]:
        shape = (self.backbone.transformer.config.in_channels, *self.size)
        return frame_noise(self.seeds, kind, at, shape).to(self.backbone.device)

    def _context(self, x: Tensor, at: range) -> Tensor:
        """A finished chunk as it is written."""
        sigma = self.config.context_sigma
        return x if sigma == 0 else (1 - sigma) * x + sigma * self._noise("context", at)

    def _count(self) -> int:
        empty = not self.cache.branch(COND).positions
        return self.config.first if empty and self.config.first is not None else self.config.chunk


def _leaves_some(known: Tensor | None, count: int) -> bool:
    return known is None or known.shape[2] < count


def _whole(x: Tensor, known: Tensor | None) -> Tensor:
    """The known latents of a whole chunk, for every video."""
    assert known is not None
    if known.shape[0] not in (1, x.shape[0]) or known.shape[1:] != x.shape[1:]:
        raise InputError(f"Known latents {list(known.shape)} do not fit a chunk of {list(x.shape)}.")
    return known.to(x).expand_as(x).clone()


def _size(backbone: WanBackbone) -> tuple[int, int]:
    stride = backbone.pipeline().vae.config.scale_factor_spatial
    return backbone.video_format.height // stride, backbone.video_format.width // stride
