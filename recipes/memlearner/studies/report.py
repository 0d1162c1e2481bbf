"""Write a page of rollouts in which the camera turns away and comes back, from the videos of the claims.

    python -m recipes.memlearner.studies.report --preset tiny    # after studies.claims --claim methods

The rooms are the first ones by number. For each, without people and with people, the page shows the truth, the video of
each method from its first frame, and the attention of the queries on the past frames in the last chunk, where the
camera is back at its start. The videos are those that the evaluation kept. The command writes OUT/report.html, which is
self-contained, and OUT/report.png.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from memkit.backbones import VideoFormat
from memkit.banks import MemoryBank
from memkit.cameras import yaw_degrees
from memkit.errors import InputError
from memkit.evaluation import read_rows
from memkit.files.atomic import reading, write_text
from memkit.files.json_files import ROW_CHECKSUM_KEY, line_of, parse_json
from memkit.report import ContextAttention, GeneratedVideo, RolloutSection, contact_sheet, render_rollouts
from memkit.training import read_run_log, report_done, run_command, steps_done
from memkit.video import read_video
from memkit.worlds.tours import has_people
from recipes.memlearner.presets import Command, parse
from recipes.memlearner.scores import Clip, Row, Run, clip_of, test_rooms, truth

INTRO = (
    "Each rollout begins with the same frame of a room that nothing was trained on. The camera turns away, waits and "
    "turns back; chunk after chunk is made from what was made before."
)
CAVEAT = (
    "The rooms are the first ones by their number. Where there are people, they have moved on when the camera is back. "
    "PSNR is against the truth on the way back."
)


@dataclass(frozen=True)
class Report(Command):
    """The command line."""

    run: int = 1
    """Seed of the training runs to show."""
    rooms: int = 3
    """Number of rooms, each without people and with people; at most half of the videos that the evaluation kept."""
    methods: tuple[str, ...] = ("learned", "cam", "window", "framepack", "separate", "none")
    """Variants to show, by their names in the claims."""


@dataclass(frozen=True)
class MethodVideos:
    """The videos of "revisit" that the evaluation of one run kept."""

    name: str
    folder: Path
    rows: Run

    def frames(self, room: str) -> UInt8[Tensor, "frames h w 3"]:
        """The generated video: the left half of the kept one, whose right half is the truth."""
        file = self.folder / "evaluation" / f"{room}-revisit.mp4"
        if not file.exists():
            raise InputError(f"There is no {file}; evaluate with --rooms and --keep of this room at least.")
        both = read_video(file).frames
        return both[:, :, : both.shape[2] // 2]

    def note(self, room: str) -> str:
        """Its PSNR."""
        if (row := self.rows.get(("revisit", room))) is None:
            raise InputError(f"{self.folder} has no row of the revisit of {room}; run studies.claims again.")
        return "" if math.isnan(row.psnr) else f"{row.psnr:.1f} dB"

    def attention(self, room: str, form: VideoFormat, latent_frames: int) -> list[ContextAttention]:
        """The attention of the queries in the last chunk; empty for a method without queries."""
        file = self.folder / "evaluation" / f"{room}-revisit.json"
        if not file.exists():
            return []
        with reading(file, again := "evaluate the run again"):
            last = parse_json(file.read_bytes())[-1]
        crc = last.pop(ROW_CHECKSUM_KEY, None)  # which older files do not have
        if crc not in (None, parse_json(line_of(last))[ROW_CHECKSUM_KEY]):
            raise InputError(f"{file} is damaged; {again}.")
        shares, stride = torch.tensor(last["shares"]), (form.num_frames - 1) // (latent_frames - 1)
        own = latent_frames / (latent_frames + len(shares))
        note = (
            f"Together {100 * shares.sum():.1f} %, at most {100 * shares.max():.1f} %; the rest falls on the chunk "
            f"itself. If every token got the same (dashed), {100 * (1 - own):.0f} %. Chunks share a frame, so some "
            "times come twice."
        )
        frames = self.frames(room)[[stride * time for time in last["times"]]]
        title = f"What the queries of “{self.name}” attend to while the last chunk is made, by latent frame"
        return [ContextAttention(title, note, last["times"], frames, shares, (1 - own) / len(shares))]

    def training(self) -> str:
        """Number of steps and seconds of the training."""
        rows = read_run_log(self.folder)
        return f"{steps_done(self.folder / 'checkpoint.pt')} steps, {rows[-1]['seconds']:.0f} s"


def section(
    room: str, clip: Clip, form: VideoFormat, latent_frames: int, methods: Sequence[MethodVideos]
) -> RolloutSection:
    """The section of one room."""
    real, cameras = truth(clip, form)
    yaw = yaw_degrees(cameras)
    return RolloutSection(
        title=f"{room}, {'with' if has_people(room) else 'without'} people",
        note=f"The camera turns by {max(abs(y) for y in yaw):.0f}° and back, in {clip.chunks} chunks.",
        rollouts=[
            GeneratedVideo("truth", "", real),
            *(GeneratedVideo(m.name, m.note(room), m.frames(room)) for m in methods),
        ],
        strip_title="Frame by frame; how far the camera is turned",
        frame_marks=[f"{y:.0f}°" for y in yaw],
        attention=[found for m in methods for found in m.attention(room, form, latent_frames)],
    )


def evaluated(command: Report) -> list[MethodVideos]:
    """The runs that were evaluated. Prints the names of the others."""
    out, found = command.config.out, []
    for name in command.methods:
        folder = out / f"{name}-{command.run}"
        if (folder / "measured.jsonl").exists():
            found.append(MethodVideos(name, folder, read_rows(folder / "measured.jsonl", Row)))
        else:
            print(f"{folder} was not evaluated and is left out")
    if not found:
        raise InputError(f"No run in {out} was evaluated; run recipes.memlearner.studies.claims first.")
    return found


def main(command: Report) -> int:
    """Write the page and the contact sheet. Returns the exit code."""
    config = command.config
    if config.suite != "rooms":
        raise InputError(f"This page shows rooms; docs/{config.suite}.md says how its pictures are made.")
    methods = evaluated(command)
    bank = MemoryBank.open(config.folder / "test")
    form = VideoFormat(**{field.name: bank.info[field.name] for field in fields(VideoFormat)})
    latent_frames = bank.clip(bank.ids[0]).latents.shape[1]
    clips = {room: clip_of("revisit", room, config, form) for room in test_rooms(command.rooms)}
    sections = [section(room, clip, form, latent_frames, methods) for room, clip in clips.items()]
    training = {method.name: method.training() for method in methods}
    page = render_rollouts("Turning away and coming back", INTRO, CAVEAT, sections, training, form.fps)
    write_text(config.out / "report.html", page)
    rows = [(f"{s.title}: {s.note}", [(f"{r.name}\n{r.note}", r.frames) for r in s.rollouts]) for s in sections]
    contact_sheet(rows, columns=13, height=form.height).save(config.out / "report.png")
    report_done(config.out / "report.html")
    return 0


if __name__ == "__main__":
    run_command(lambda: main(parse(Report, __doc__)))
