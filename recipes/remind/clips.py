"""Clips that something interrupts, each with its uninterrupted twin: of the interruptions world, or of video files.

Everything about a clip but its pixels follows from its name and the settings, so that it can be written down, and drawn
again, without rendering or decoding.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor

from memkit.banks import posed_clip
from memkit.banks.captions import Row
from memkit.cameras import Cameras
from memkit.errors import InputError
from memkit.interruptions import KINDS, Fog, Interruption, LookAway, Timing, interrupt
from memkit.interruptions.kinds import TRAINING_KINDS
from memkit.worlds import Interrupted, sample_interruption
from memkit.worlds.constants import Split
from memkit.worlds.event import camera, times
from memkit.worlds.interruptions import KINDS as WORLD_KINDS
from recipes.remind.presets import Config
from recipes.remind.records import Phases, Record, Shown, chunk_spans, frames_of, told, until_fit

FOG = "fog"
"""The kind held out from training."""


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
        intrinsics = clip.intrinsics if isinstance(by, LookAway) else given.intrinsics
        turned = given.c2w @ clip.c2w.to(given.c2w)
        intrinsics = intrinsics.to(given.intrinsics)
        return Shown(clip.video, Cameras(turned, intrinsics)), Shown(clip.twin, Cameras(given.c2w, intrinsics))
