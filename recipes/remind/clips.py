"""Clips that something interrupts, each with its uninterrupted twin: of the interruptions world, or of video files.

Everything about a clip but its pixels follows from its name and the settings, so that it can be written down, and drawn
again, without rendering or decoding.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import NamedTuple, Protocol, TypeVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from memkit.cameras import Cameras
from memkit.errors import InputError
from memkit.ingest import Row
from memkit.interrupt import (
    Fog,
    Interruption,
    LookAway,
    Occluder,
    Spans,
    Timing,
    interrupt,
)
from memkit.interrupt_kinds import KINDS, TRAINING_KINDS
from memkit.worlds.constants import Split
from memkit.worlds.event import camera, times
from memkit.worlds.interruptions import KINDS as WORLD_KINDS
from memkit.worlds.interruptions import Interrupted, sample_interruption
from recipes.file_videos import posed_clip
from recipes.remind.presets import STRIDE, Config

Frames = UInt8[Tensor, "frames height width 3"]
TWIN = "/twin"
FOG = "fog"
"""The kind held out from training."""
_TRIES = 200
_WORDS = {
    "occluder": "while a {} hides the view",
    "lights-off": "while the light goes out and on again",
    "look-away": "while the camera looks away and back",
    "camera-loop": "while the camera turns away and back",
    "camera-off": "while the camera is off for a moment",
    "fog": "while fog thickens and clears",
}
Drawn = TypeVar("Drawn")


class Phases(NamedTuple):
    """An interruption in latent frames: hidden from ``start`` to before ``stop``, wholly gone from ``clear`` on.

    Between ``stop`` and ``clear`` the view comes back: there a frame shows how the world has gone on, so it belongs to
    what recovers and is never given where that is tested.
    """

    start: int
    stop: int
    clear: int

    @classmethod
    def of(cls, amount: Float[Tensor, " frames"]) -> Phases:
        """From how much of the view is hidden in each video frame; the hold ends with the last frame of the most."""
        start, clear = Spans.of(amount).latent().degraded
        return cls(start, int((amount >= amount.max()).nonzero().max()) // STRIDE + 1, clear)


class Record(NamedTuple):
    """What training and evaluation know of a clip besides its latents; see `Phases` for ``hidden``."""

    id: str
    by: str
    hidden: tuple[int, int]
    """Latent frames [start, stop) that show no truth."""
    clear: int
    """The first latent frame that is clean again."""
    captions: tuple[str, ...]
    """One a chunk of the interrupted clip."""
    twin_caption: str


class Shown(NamedTuple):
    """Frames, and the camera of each."""

    frames: Frames
    cameras: Cameras


class Clip(Protocol):
    """What `prepare` encodes."""

    @property
    def id(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def record(self) -> Record: ...
    def both(self) -> tuple[Shown, Shown]:
        """The interrupted clip and its twin."""
        ...


def twin_of(id: str) -> str:
    """The id of the uninterrupted clip."""
    return id + TWIN


@dataclass(frozen=True)
class WorldClip:
    """A clip of the interruptions world; ``id`` is its split and number: "test-00003"."""

    id: str
    config: Config

    @property
    def source(self) -> str:
        return self.id

    @property
    def split(self) -> Split:
        return "train" if self.id.startswith("train-") else "test"

    @property
    def by(self) -> str:
        """What interrupts it: the world's kinds in turn, and in the test split fog as well."""
        kinds = WORLD_KINDS if self.split == "train" else (*WORLD_KINDS, FOG)
        return kinds[int(self.id.rpartition("-")[2]) % len(kinds)]

    @cached_property
    def drawn(self) -> Interrupted:
        """The process, and when it is hidden; of fog, as long as any other kind would hide it."""
        rng = random.Random(f"remind/{self.id}")
        by = None if self.by == FOG else self.by
        return until_fit(
            [lambda: sample_interruption(rng, self.split, by)],  # type: ignore[arg-type]  # a kind of the world's
            lambda clip: clip.by.amount(self.seconds).float(),
            self.config,
            self.id,
        )

    @property
    def seconds(self) -> Tensor:
        """Of each frame."""
        return times(self.config.frames, self.config.fps)

    @property
    def phases(self) -> Phases:
        """When it is hidden."""
        fog = self.by == FOG
        return Phases.of(
            self.fog.timing.amount(self.config.frames) if fog else self.drawn.by.amount(self.seconds).float()
        )

    @property
    def fog(self) -> Fog:
        """Fog in the place of the interruption."""
        by, whole = self.drawn.by, float(self.seconds[-1])
        shares = (by.start, by.start + by.ramp, by.stop - by.ramp, by.stop)
        return Fog(timing=Timing(*(share / whole for share in shares)), seed=random.Random(self.id).getrandbits(31))

    @property
    def record(self) -> Record:
        config, plain = self.config, self.drawn.event.caption
        start, stop, clear = self.phases
        captions = []
        for span in chunk_spans(config):
            frames = frames_of(span)
            seconds = (frames.start / config.fps, (frames.stop - 1) / config.fps)
            if self.by == FOG:
                captions.append(told(plain, self.fog, (start, clear), span))
            else:
                captions.append(" ".join(part.text for part in self.drawn.parts(*seconds)))
        return Record(self.id, self.by, (start, stop), clear, tuple(captions), plain)

    def both(self) -> tuple[Shown, Shown]:
        """Rendered. Raises `InputError` for frames that are not square."""
        config = self.config
        if config.height != config.width:
            raise InputError(f"The world is rendered square, --height {config.height} --width {config.width} is not.")
        size = (config.frames, config.fps, config.height)
        one = camera()
        still = Cameras(one.c2w.repeat(config.frames, 1, 1), one.intrinsics.repeat(config.frames, 1))
        twin = self.drawn.twin(*size)
        if self.by == FOG:
            return Shown(interrupt(twin, config.fps, self.fog).video, still), Shown(twin, still)
        return Shown(self.drawn.video(*size), self.drawn.cameras(self.seconds)), Shown(twin, still)


@dataclass(frozen=True)
class FileClip:
    """The start of a video file, interrupted; poses beside it are taken, else its camera is thought to stand."""

    row: Row
    config: Config
    held_out: bool = False
    """Draw from all kinds, not only from those of training."""

    @property
    def id(self) -> str:
        return self.row.id

    @property
    def source(self) -> str:
        return self.row.source

    @cached_property
    def settings(self) -> Interruption:
        """Of the interruption."""
        rng = random.Random(f"remind/{self.id}")
        kinds = list(KINDS if self.held_out else TRAINING_KINDS)
        rng.shuffle(kinds)
        return until_fit(
            [partial(kind.draw, rng) for kind in kinds],
            lambda by: by.timing.amount(self.config.frames),
            self.config,
            self.id,
        )

    @property
    def record(self) -> Record:
        start, stop, clear = Phases.of(self.settings.timing.amount(self.config.frames))
        spans, caption = chunk_spans(self.config), self.row.caption
        captions = tuple(told(caption, self.settings, (start, clear), span) for span in spans)
        return Record(self.id, self.settings.NAME, (start, stop), clear, captions, caption)

    def both(self) -> tuple[Shown, Shown]:
        """Decoded. Raises `InputError` or `MediaError` naming the file: too short, not to be read, poses that do not
        fit it."""
        frames, cameras = posed_clip(self.row.file, self.config.form)
        by = self.settings
        if isinstance(by, LookAway) and cameras is not None and (fx := float(cameras.intrinsics[0, 0])) > 0:
            by = replace(by, fov_degrees=float(torch.tensor(0.5 / fx).atan().rad2deg() * 2))
        clip = interrupt(frames, self.config.fps, by)
        given = cameras or Cameras(torch.eye(4).repeat(len(frames), 1, 1), torch.zeros(len(frames), 4))
        lens = clip.intrinsics if isinstance(by, LookAway) else given.intrinsics
        turned = given.c2w @ clip.c2w.to(given.c2w)
        lens = lens.to(given.intrinsics)
        return Shown(clip.video, Cameras(turned, lens)), Shown(clip.twin, Cameras(given.c2w, lens))


def told(caption: str, by: Interruption, touched: Sequence[int], span: Sequence[int]) -> str:
    """The caption of a chunk: what interrupts it is told where it is seen."""
    if not (touched[0] < span[1] and span[0] < touched[1]):
        return caption
    words = _WORDS[by.NAME].format(by.look if isinstance(by, Occluder) else "")
    return f"{caption.rstrip('. ')} {words}"


def chunk_spans(config: Config) -> list[tuple[int, int]]:
    """The latent frames [start, stop) of each chunk."""
    starts = [0, *range(config.first, config.latents, config.chunk)]
    return list(zip(starts, [*starts[1:], config.latents], strict=True))


def frames_of(latents: tuple[int, int]) -> slice:
    """The video frames of latent frames [start, stop): latent frame 0 is frame 0, i is frames 4i − 3 to 4i."""
    return slice(max(0, STRIDE * (latents[0] - 1) + 1), STRIDE * (latents[1] - 1) + 1)


def until_fit(
    draws: Sequence[Callable[[], Drawn]], amount: Callable[[Drawn], Tensor], config: Config, name: str
) -> Drawn:
    """What the first of ``draws`` gives that fits, each tried many times: some kinds never do in a short clip.

    It fits where the first and the last chunk are clean, and the chunk in which it begins ends hidden: that chunk is
    given, and must not tell what comes after. Raises `InputError` where none does.
    """
    chunks = chunk_spans(config)
    for draw in draws:
        for _ in range(_TRIES):
            drawn = draw()
            start, stop, clear = Phases.of(amount(drawn))
            ends = next((b for a, b in chunks if a <= start < b), config.latents)
            if start >= chunks[0][1] and clear <= chunks[-1][0] and ends <= stop:
                return drawn
    raise InputError(f"{name}: no interruption fits into a clip of {len(chunks)} chunks; give more --frames.")
