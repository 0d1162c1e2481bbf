"""`Stream`: videos of any length from a causal Wan, chunk by chunk, with a `KVCache` as memory.

Each chunk is denoised with what it reads of the cache, then passed through the model once more, clean, and written to
the cache with the same history visible, as `TeacherForcing` trains it (ReMind, arXiv 2605.25333). Any stock Wan runs;
one not trained for streaming gives poor videos. Published causal models have presets, `memkit.streaming.presets`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.backbones.wan import WanBackbone
from memkit.cameras.cameras import Cameras
from memkit.cameras.path import CameraPath
from memkit.checks import (
    MOST,
    MOST_FRAMES,
    check_finite,
    check_floats,
    check_list,
    check_whole,
    seed_list,
    text_list,
)
from memkit.display import counted, described, listed
from memkit.errors import FileError, InputError
from memkit.generation.conditioning import LATENTS
from memkit.generation.noise import frame_noise
from memkit.generation.short_text import PIPELINE_TEXT_LENGTH, embed_short, short_texts
from memkit.injectors.attention_recorder import AttentionRecorder
from memkit.injectors.kv_cache.attachment import AttachedCache
from memkit.injectors.kv_cache.cache import KVCache
from memkit.injectors.kv_cache.parts import CacheParts
from memkit.positions.pm_rope import PMRoPE
from memkit.positions.prope import PRoPE
from memkit.streaming.budget import check_chunk, checked_budget, checked_size, latent_size
from memkit.streaming.config import StreamConfig
from memkit.streaming.read_policies import Read, read_everything, read_local
from memkit.streaming.recent import Recent
from memkit.streaming.session import KIND, check_model, load_stream, model_of, save_stream
from memkit.streaming.steps import COND, UNCOND, ChunkSteps
from memkit.streaming.upkeep import Upkeep


class Stream:
    """A batch of videos that grow by one chunk per call.

        stream = Stream(backbone, seeds=[1, 2], budget_bytes=21 * frame_bytes(backbone.transformer, 60, 104, 2))
        first = stream.generate(prompts, conditioning_latents=image_latents)  # one prompt per video
        for prompts in later:
            chunk = stream.generate(prompts)

    Between calls the transformers are the stock ones. What else is attached to them, such as memory tokens, acts in
    every call. Recurrent memory goes on with the stream if each call is inside of its ``chunk(write=True)``. The next
    frames are at ``position``, …: set it forward to leave a gap, or back to make a chunk again.

    To change the prompt, pass the new one: stock Wan reads the text in each call, so no text is cached. Cached frames
    keep the keys and values that they had under the old prompt, unless ``config.recache``.

    Args:
        backbone: a Wan whose only video input is the latents. Each expert of an A14B denoises its range of noise
            levels, and both write to the cache.
        seeds: one per video; one number is a single video. The noise of a frame follows from seed and position alone
            and is drawn on the CPU, so a video does not depend on the others in the batch, up to the rounding of a
            larger batch, nor on the device.
        budget_bytes: size of the cache, all branches together; see `frame_bytes`. When it is full, the unpinned frames
            of the lowest positions are evicted. By default what the config's window needs.
        read: which frames a chunk reads, by default the config's window; see `memkit.streaming.read_policies` and
            `ReadBest`.
        parts: what the cache is made of: which frames it keeps, where, in which form, at which positions.
        positions: camera positions, attached during each call; required with ``cameras``, and only then.
        cameras: of the latent frames of the whole video, [frames] or [B or 1, frames]: row p for position p. They are
            normalised once.
        size: height and width of the latents; by default those of the backbone's video format.

    Raises:
        InputError: no seed, a model that takes more than latents, only one of cameras and positions, a size that is
            none of latents, or a budget that is too small for the window or larger than the memory of this machine.
    """

    def __init__(
        self,
        backbone: WanBackbone,
        seeds: int | Sequence[int],
        budget_bytes: int | None = None,
        config: StreamConfig = StreamConfig(),  # noqa: B008  # frozen
        *,
        read: Read | None = None,
        parts: CacheParts = CacheParts(),  # noqa: B008  # frozen
        positions: PMRoPE | PRoPE | None = None,
        cameras: Cameras | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        model = backbone.transformer.config
        seeds = seed_list("seeds", seeds)
        if not seeds:
            raise InputError("A stream generates one video per seed; give at least one.")
        if model.in_channels != model.out_channels:
            raise InputError("This model takes a mask and images beside the latents; a stream gives it latents alone.")
        if (positions is None) != (cameras is None):
            raise InputError("Cameras need camera positions, and those need cameras; give both or neither.")
        self.backbone, self.seeds, self.config = backbone, tuple(seeds), config
        window = read_everything if config.window is None else read_local(config.window, config.sink)
        self.read = window if read is None else read
        self.size = latent_size(backbone) if size is None else checked_size(size, backbone)
        budget_bytes = checked_budget(budget_bytes, backbone, config, len(self.seeds), self.size)
        self.cache = KVCache(budget_bytes, (COND,) if config.guidance_scale == 1 else (COND, UNCOND), parts=parts)
        self._recent = Recent(config.window) if config.recache and config.window is not None else None
        self.position = 0
        self._positions = positions
        self._path = None if cameras is None else CameraPath.of(cameras).to(backbone.device)
        self._texts: dict[tuple[str, ...], Tensor] = {}

    def __repr__(self) -> str:
        videos = counted(len(self.seeds), "video")
        seeds = f"{'seed' if len(self.seeds) == 1 else 'seeds'} {listed(self.seeds)}"
        chunks = f"chunks of {counted(self.config.chunk, 'frame')}"
        return described(self, videos, seeds, f"at position {self.position}", chunks, repr(self.cache))

    @property
    def position(self) -> int:
        """Position of the next latent frame. Raises `InputError` where it is set to no whole number."""
        return self._position

    @position.setter
    def position(self, value: int) -> None:
        check_whole("The position of a stream", value, -MOST)
        self._position = value

    # -- generation --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def generate(
        self,
        prompts: str | Sequence[str],
        conditioning_latents: Float[Tensor, "rows channels conditioning h w"] | None = None,
        frames: int | None = None,
        pin: bool = False,
        recorder: AttentionRecorder | None = None,
    ) -> Float[Tensor, "batch channels frames height width"]:
        """The next chunk's latents, fp32, normalised as by ``backbone.encode_video``; then written to the cache.

        Args:
            prompts: one per video, for this chunk; one string is one prompt.
            conditioning_latents: those of its first frames, one row per video or one for all. They replace the latents
                at every step, at timestep 0, and come back as given. If they fill the chunk, it is only written.
            frames: latent frames of this chunk; by default those of the config.
            pin: never evict this chunk (a sink, an anchor).
            recorder: if given, records the attention of the conditional branch at each step.

        Raises:
            InputError: prompts or conditioning latents do not fit or are not finite, a position has no camera, or a
                frame to read is not in the cache.
            BudgetError: the budget holds no chunk of so many frames, or the pinned frames leave no room. After either
                error the stream is still usable.
        """
        prompts = text_list("prompts", prompts)
        if conditioning_latents is not None:
            check_floats("conditioning_latents", conditioning_latents, LATENTS)
        if len(prompts) != len(self.seeds):
            raise InputError(f"There are {len(prompts)} prompts for {len(self.seeds)} videos; give one per video.")
        count = self._count() if frames is None else frames
        if isinstance(count, int) and count < 1:
            raise InputError(f"A chunk of {count} frames; give 1 or more.")
        check_whole("frames", count, 1, MOST_FRAMES)
        check_chunk(self.cache.budget_bytes, count, self.backbone, self.config, len(self.seeds), self.size)
        at = range(self.position, self.position + count)
        upkeep = Upkeep(self.backbone, self.cache, self.read, self._recent)
        for span, latents in upkeep.stale(prompts):
            with self._attached(span) as attached:
                self._write(attached, upkeep, latents, span, prompts)
        with self._attached(at) as attached:
            text = self._encode(prompts)
            upkeep.begin(text)
            x = self._noise("noise", at)
            x = (
                self._steps(attached).denoise(x, at, text, conditioning_latents, recorder)
                if _generates(conditioning_latents, count)
                else _whole(x, conditioning_latents)
            )
            self._write(attached, upkeep, x, at, prompts, pin)
        if self._recent is not None:
            self._recent.add(at, x, prompts)
        self.position = at.stop
        return x

    def generate_all(
        self,
        prompts: Sequence[str | Sequence[str]],
        conditioning_latents: Float[Tensor, "rows channels conditioning h w"] | None = None,
    ) -> Float[Tensor, "batch channels frames height width"]:
        """One chunk per entry of ``prompts``, each of which has one prompt per video; for a single video, an
        entry may be the prompt itself.

        ``conditioning_latents`` are those of the first frames: one frame is image-to-video, six are video-to-video in
        ReMind; any number that fits in the chunks is allowed.
        """
        prompts = check_list("prompts", prompts, "prompts, one list per chunk")
        if conditioning_latents is not None:
            check_floats("conditioning_latents", conditioning_latents, LATENTS)
        given = 0 if conditioning_latents is None else conditioning_latents.shape[2]
        room = self._count() + (len(prompts) - 1) * self.config.chunk
        if not prompts or given > room:
            raise InputError(f"{given} conditioning frames for {len(prompts)} chunks; give prompts for more chunks.")
        chunks, start = [], 0
        for each in prompts:
            stop = start + self._count()
            first = None if conditioning_latents is None or start >= given else conditioning_latents[:, :, start:stop]
            chunks.append(self.generate(each, first))
            start = stop
        return torch.cat(chunks, dim=2)

    # -- sessions on disk ----------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write cache, seeds, position and settings to ``folder``; what was saved there before is replaced as a whole.

        Raises `InputError` where it cannot be written.
        """
        content = {"seeds": self.seeds, "position": self.position, "size": self.size, "config": asdict(self.config)}
        content["model"] = model_of(self.backbone)
        save_stream(Path(folder), self.cache, content, self._recent)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        backbone: WanBackbone,
        *,
        read: Read | None = None,
        parts: CacheParts = CacheParts(),  # noqa: B008  # frozen
        positions: PMRoPE | PRoPE | None = None,
        cameras: Cameras | None = None,
    ) -> Stream:
        """A saved stream; with the same model, ``read``, parts, positions and cameras it continues bit-identically.

        Raises `InputError` where there is none, it is damaged, or it is of a model of other sizes or dtype.
        """
        cache, content, recent = load_stream(Path(folder), backbone.device, parts)
        with KIND.reading(folder):
            config, size = _config_of(content["config"], folder), tuple(content["size"])
            seeds, position = content["seeds"], content["position"]
            check_model(Path(folder), cache, content, size, backbone)
        given = {"read": read, "parts": parts, "positions": positions, "cameras": cameras, "size": size}
        stream = cls(backbone, seeds, cache.budget_bytes, config, **given)
        stream.cache, stream.position = cache, position
        stream._recent = stream._recent if recent is None else recent
        return stream

    # -- inputs of a chunk ---------------------------------------------------------------------------------------------

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

    def _steps(self, attached: AttachedCache) -> ChunkSteps:
        return ChunkSteps(self.backbone, self.cache, attached, self.config, self.read, self._noise)

    def _write(
        self, attached: AttachedCache, upkeep: Upkeep, x: Tensor, at: range, prompts: Sequence[str], pin: bool = False
    ) -> None:
        """Write a clean chunk to the cache."""
        text = self._encode(prompts)
        upkeep.begin(text)
        self._steps(attached).write(self._context(x, at), at, text, pin)
        upkeep.wrote(x, at)

    def _encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Embeddings of both branches; only those of the latest prompts are kept."""
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
        """A finished chunk as it is written to the cache."""
        sigma = self.config.context_sigma
        return x if sigma == 0 else (1 - sigma) * x + sigma * self._noise("context", at)

    def _count(self) -> int:
        empty = not self.cache.branch(COND).positions
        return self.config.first if empty and self.config.first is not None else self.config.chunk


def _config_of(content: Any, folder: str | Path) -> StreamConfig:
    try:
        return StreamConfig.from_json(content)
    except InputError as error:
        raise FileError(f"The stream saved at {folder} is damaged: {error}") from error


def _generates(conditioning_latents: Tensor | None, count: int) -> bool:
    return conditioning_latents is None or conditioning_latents.shape[2] < count


def _whole(x: Tensor, conditioning_latents: Tensor | None) -> Tensor:
    """The conditioning latents of a whole chunk, for every video."""
    assert conditioning_latents is not None
    if conditioning_latents.shape[0] not in (1, x.shape[0]) or conditioning_latents.shape[1:] != x.shape[1:]:
        raise InputError(
            f"Conditioning latents {list(conditioning_latents.shape)} do not fit a chunk of {list(x.shape)}."
        )
    check_finite("conditioning_latents", conditioning_latents)
    return conditioning_latents.to(x).expand_as(x).clone()
