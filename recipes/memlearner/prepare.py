"""Build the banks of chunks, or go on where an earlier call was stopped.

    python -m recipes.memlearner.prepare --preset tiny
    python -m recipes.memlearner.prepare --preset wan2.1-1.3b --videos DIR --captions CSV
    python -m recipes.memlearner.prepare --preset wan2.1-1.3b --videos DIR --captions CSV --annotation estimated \
        --out runs/walks
    torchrun --nproc-per-node 8 -m recipes.memlearner.prepare --preset wan2.1-1.3b --videos DIR --captions CSV

Without ``--videos``, tours of rooms are rendered: OUT/train, and OUT/test of rooms that nothing was trained on. With
it, OUT/train (or the bank named by ``--into``) holds your videos, whose poses lie beside them; see docs/poses.md. A
bank is of one kind of poses: exact, estimated, or none at all. Training takes several banks (``--more-banks``).

A bank holds, of each chunk, its latents and, under an id of their own, those of its frames encoded alone, which rules
like CaM's choose among; each with the cameras of its latent frames. Several processes share the work; see
`memkit.banks.fill_together`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Literal

from memkit.backbones import WanCodec
from memkit.banks import fill_bank, read_captions
from memkit.rollout.long_videos import add_video, frames_id, name_of
from memkit.training import PREPARES, OwnVideos, load_codec, report_done, run_command
from memkit.worlds.constants import Split
from memkit.worlds.tours import room_names
from recipes.memlearner.presets import Annotation, Command, Config, parse
from recipes.memlearner.videos import FileVideo, LongVideo, RoomVideo


@dataclass(frozen=True)
class Prepare(OwnVideos, Command):
    """The command line."""

    shows: ClassVar[tuple[type, ...]] = PREPARES
    annotation: Annotation = "exact"
    """How the poses of your videos are known, which lie beside them; with "none" no pose files are read."""
    into: Literal["train", "test"] = "train"
    """Which bank your videos go to."""


def main(command: Prepare) -> int:
    """Build what is missing; the exit code."""
    config = command.config
    own, codec = command.source(config.model, config.train_videos + config.test_videos), load_codec(config)
    if own is not None:
        return _ingest(command, *own, codec)
    splits: tuple[tuple[Split, int], ...] = (("train", config.train_videos), ("test", config.test_videos))
    codes = []
    for split, count in splits:
        names = room_names(split, count, both=split == "test")
        videos = [RoomVideo(name, config.video_chunks, codec.video_format) for name in names]
        bad = fill_videos(config.folder / split, config, codec, videos, config.video_chunks)
        codes.append(command.report(config.folder / split, len(videos), [], bad) if videos else 0)
    report_done(config.folder, "python -m recipes.memlearner.train with the same --preset and flags")
    return max(codes)


def fill_videos(
    path: Path,
    config: Config,
    codec: WanCodec,
    videos: Sequence[LongVideo],
    count: int | None = None,
    annotation: Annotation = "exact",
) -> dict[str, str] | None:
    """Add the chunks that the bank ``path`` lacks; names of videos that cannot be used, and why.

    With ``count`` chunks in every video those that are whole in the bank are not read again. Several processes share
    the work; None in all but rank 0.
    """
    info = {"recipe": "memlearner", "model": config.model, "poses": annotation, **asdict(codec.video_format)}
    # a video is one item of work: by what is added of it last, or first where only its file tells its length
    items = {frames_id(video.name, (count or 1) - 1): video for video in videos}
    bad = fill_bank(
        path,
        info,
        items,
        lambda bank, id: count is not None and id in bank,
        lambda bank, video: add_video(bank, video.name, video.chunks(), codec),
    )
    return None if bad is None else {name_of(id): reason for id, reason in bad.items()}


def _ingest(command: Prepare, folder: Path, captions: Path, codec: WanCodec) -> int:
    rows, broken = read_captions(captions, folder)
    videos = [FileVideo(row, codec.video_format, command.annotation != "none") for row in rows]
    path = command.config.folder / command.into
    bad = fill_videos(path, command.config, codec, videos, annotation=command.annotation)
    return command.report(path, len(videos), broken, bad)


if __name__ == "__main__":
    run_command(lambda: main(parse(Prepare, __doc__)))
