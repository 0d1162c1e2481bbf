"""Build the banks of chunks. A command that was stopped continues where it was.

    python -m recipes.memlearner.prepare --preset tiny
    python -m recipes.memlearner.prepare --preset gallery
    python -m recipes.memlearner.prepare --preset wan2.1-1.3b --videos DIR --captions CSV
    python -m recipes.memlearner.prepare --preset wan2.1-1.3b --videos DIR --captions CSV --annotation estimated \
        --out runs/walks
    torchrun --nproc-per-node 8 -m recipes.memlearner.prepare --preset wan2.1-1.3b --videos DIR --captions CSV

Without ``--videos``, tours of rooms (or with ``--suite gallery`` of galleries) are rendered: OUT/train, and OUT/test of
unseen ones. With ``--videos``, OUT/train
(see ``--into``) holds your videos with the poses beside them (docs/poses.md). A bank has one kind of poses: exact,
estimated, or none. Training can use several banks (``--more-banks``).

A bank holds the latents of each chunk and, under an id of their own, the latents of its frames encoded alone, which CaM
retrieves; both with one camera per latent frame. Several processes split the work; see `memkit.banks.fill_together`.
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
from recipes.memlearner.presets import command as next_command
from recipes.memlearner.videos import FileVideo, LongVideo, WorldVideo


@dataclass(frozen=True)
class Prepare(OwnVideos, Command):
    """The command line."""

    shows: ClassVar[tuple[type, ...]] = PREPARES
    annotation: Annotation = "exact"
    """Kind of the poses beside your videos; with "none" no pose files are read."""
    into: Literal["train", "test"] = "train"
    """The bank that your videos are added to."""


def main(command: Prepare) -> int:
    """Build what is missing. Returns the exit code."""
    config = command.config
    own, codec = command.source(config.model, config.train_videos + config.test_videos), load_codec(config)
    if own is not None:
        return _ingest(command, *own, codec)
    splits: tuple[tuple[Split, int], ...] = (("train", config.train_videos), ("test", config.test_videos))
    codes = []
    for split, count in splits:
        names = room_names(split, count, both=split == "test")
        videos = [WorldVideo(config.suite, name, config.video_chunks, codec.video_format) for name in names]
        bad = fill_videos(config.folder / split, config, codec, videos, config.video_chunks)
        codes.append(command.report(config.folder / split, len(videos), [], bad) if videos else 0)
    report_done(config.folder, next_command("train", config))
    return max(codes)


def fill_videos(
    path: Path,
    config: Config,
    codec: WanCodec,
    videos: Sequence[LongVideo],
    count: int | None = None,
    annotation: Annotation = "exact",
) -> dict[str, str] | None:
    """Add the chunks that are missing in the bank ``path``. On rank 0, returns the names of bad videos with reasons.

    If every video has ``count`` chunks, videos that are complete in the bank are not read again.
    """
    info = {"recipe": "memlearner", "model": config.model, "poses": annotation, **asdict(codec.video_format)}
    info |= {"suite": config.suite} if config.suite != "rooms" else {}
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
