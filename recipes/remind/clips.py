"""Interrupted clips of the interruptions world or of video files, each with an uninterrupted twin.

A clip, except for its pixels, depends on its id and the settings only, so that its record needs no rendering.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property, partial

from torch import Tensor

from memkit.banks import posed_clip
from memkit.banks.captions import Row
from memkit.cameras import Cameras
from memkit.errors import InputError
from memkit.interruptions import KINDS, Fog, Interruption, Phases, PosedFrames, Timing, interrupt, interrupt_posed
from memkit.interruptions.kinds import TRAINING_KINDS
from memkit.interruptions.timing import frames_of
from memkit.worlds import Interrupted, sample_interruption
from memkit.worlds.constants import Split
from memkit.worlds.event import camera, caption_of, times
from memkit.worlds.interruptions import KINDS as WORLD_KINDS
from memkit.worlds.interruptions import scene_parts
from recipes.remind.presets import Config
from recipes.remind.records import Record, chunk_spans, sample_fitting

FOG = "fog"
"""The kind of interruption that is held out from training."""


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
        """Kind of the interruption: the kinds of the world in turn, and in the test split fog too."""
        kinds = WORLD_KINDS if self.split == "train" else (*WORLD_KINDS, FOG)
        return kinds[int(self.id.rpartition("-")[2]) % len(kinds)]

    @cached_property
    def interrupted(self) -> Interrupted:
        """The interrupted process; for fog, with another kind of interruption, whose timing is used for the fog."""
        rng = random.Random(f"remind/{self.id}")
        by = None if self.by == FOG else self.by
        return sample_fitting(
            [lambda: sample_interruption(rng, self.split, by)],  # type: ignore[arg-type]  # a kind of the world's
            lambda clip: clip.by.amount(self.seconds).float(),
            self.config,
            self.id,
        )

    @property
    def seconds(self) -> Tensor:
        """Time of each frame, in seconds."""
        return times(self.config.frames, self.config.fps)

    @property
    def phases(self) -> Phases:
        """Phases of the interruption."""
        if self.by == FOG:
            return Phases.of(self.fog.timing.amount(self.config.frames))
        return Phases.of(self.interrupted.by.amount(self.seconds).float())

    @property
    def fog(self) -> Fog:
        """Fog with the timing of the sampled interruption."""
        by, whole = self.interrupted.by, float(self.seconds[-1])
        shares = (by.start, by.start + by.ramp, by.stop - by.ramp, by.stop)
        return Fog(timing=Timing(*(share / whole for share in shares)), seed=random.Random(self.id).getrandbits(31))

    @property
    def record(self) -> Record:
        config, told = self.config, self.config.world_captions
        plain = caption_of(self.interrupted.event.parts() if told == "process" else scene_parts(self.interrupted.event))
        start, stop, clear = self.phases
        captions = []
        for span in chunk_spans(config):
            frames = frames_of(span)
            seconds = (frames.start / config.fps, (frames.stop - 1) / config.fps)
            if self.by == FOG:
                captions.append(_caption(plain, self.fog, (start, clear), span))
            else:
                captions.append(caption_of(self.interrupted.parts(*seconds, told)))
        return Record(self.id, self.by, (start, stop), clear, tuple(captions), plain)

    def videos(self) -> tuple[PosedFrames, PosedFrames]:
        """Render the clip and its twin. Raises `InputError` if the frames are not square."""
        config = self.config
        if config.height != config.width:
            raise InputError(f"The world is rendered square; --height {config.height} --width {config.width} differ.")
        size = (config.frames, config.fps, config.height)
        one = camera()
        still = Cameras(one.c2w.repeat(config.frames, 1, 1), one.intrinsics.repeat(config.frames, 1))
        twin = self.interrupted.twin(*size)
        if self.by == FOG:
            return PosedFrames(interrupt(twin, config.fps, self.fog).video, still), PosedFrames(twin, still)
        video, cameras = self.interrupted.video(*size), self.interrupted.cameras(self.seconds)
        return PosedFrames(video, cameras), PosedFrames(twin, still)


@dataclass(frozen=True)
class FileClip:
    """The start of a video file, interrupted. Without poses beside the file the camera is assumed to be static."""

    row: Row
    config: Config
    held_out: bool = False
    """Sample from all kinds of interruptions, not only from those of training."""

    @property
    def id(self) -> str:
        return self.row.id

    @property
    def source(self) -> str:
        return self.row.source

    @cached_property
    def interruption(self) -> Interruption:
        """The interruption, sampled from the clip's id."""
        rng = random.Random(f"remind/{self.id}")
        kinds = list(KINDS if self.held_out else TRAINING_KINDS)
        rng.shuffle(kinds)
        return sample_fitting(
            [partial(kind.draw, rng) for kind in kinds],
            lambda by: by.timing.amount(self.config.frames),
            self.config,
            self.id,
        )

    @property
    def record(self) -> Record:
        start, stop, clear = Phases.of(self.interruption.timing.amount(self.config.frames))
        spans, caption = chunk_spans(self.config), self.row.caption
        captions = tuple(_caption(caption, self.interruption, (start, clear), span) for span in spans)
        return Record(self.id, self.interruption.NAME, (start, stop), clear, captions, caption)

    def videos(self) -> tuple[PosedFrames, PosedFrames]:
        """Decode. Raises `InputError` or `MediaError` if the file is too short or unreadable, or poses do not fit."""
        frames, cameras = posed_clip(self.row.file, self.config.form)
        return interrupt_posed(frames, cameras, self.config.fps, self.interruption)


def _caption(caption: str, by: Interruption, touched: tuple[int, int], span: tuple[int, int]) -> str:
    """The caption of the chunk ``span``, which mentions the interruption if it is in the frames ``touched``."""
    return by.caption(caption) if touched[0] < span[1] and span[0] < touched[1] else caption
