"""Pictures of what the claims measured: rollouts that turn away and come back, side by side, in one page.

    python -m recipes.memlearner.studies.report --preset tiny     # after studies.claims --claim methods

Rooms are the first ones by their number, never picked. Of each, without people and with them: the truth, and what each
method made of its first frame; and on which frames of the past the queries' attention fell while the last chunk was
made, with the camera back where it began. Videos are those that the evaluation kept, and so are the figures. Writes
OUT/report.html, which loads nothing from anywhere, and OUT/report.png.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from memkit.backbones import VideoFormat
from memkit.banks import MemoryBank
from memkit.cameras import Cameras
from memkit.errors import InputError
from memkit.report import MadeVideo, RolloutSection, Watched, contact_sheet, render_rollouts
from memkit.video import read_video
from recipes.common.commands import run_command
from recipes.common.results import read_rows
from recipes.memlearner.comparisons import Clip, Row, clip_of, has_people, test_rooms, truth
from recipes.memlearner.presets import Command, Config, parse

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
    """The training run, by its seed."""
    rooms: int = 3
    """Each without people and with them; no more than half of what the evaluation kept."""
    methods: tuple[str, ...] = ("learned", "cam", "window", "framepack", "separate", "none")
    """Runs by the names that the claims give them."""


@dataclass(frozen=True)
class Made:
    """What a run made of the revisit of each room."""

    name: str
    folder: Path
    rows: dict[tuple[str, str], Row]

    def frames(self, room: str) -> UInt8[Tensor, "frames h w 3"]:
        """As kept: the left half of a video whose right half is the truth."""
        file = self.folder / "evaluation" / f"{room}-revisit.mp4"
        if not file.exists():
            raise InputError(f"There is no {file}; evaluate with --rooms and --keep of this room at least.")
        both = read_video(file).frames
        return both[:, :, : both.shape[2] // 2]

    def note(self, room: str) -> str:
        """Its PSNR."""
        row = self.rows.get(("revisit", room))
        return "" if row is None or math.isnan(row.psnr) else f"{row.psnr:.1f} dB"

    def watched(self, room: str, form: VideoFormat, latent_frames: int) -> list[Watched]:
        """What the queries attended to for the last chunk, if the method has some."""
        file = self.folder / "evaluation" / f"{room}-revisit.json"
        if not file.exists():
            return []
        last = json.loads(file.read_text())[-1]
        shares, stride = torch.tensor(last["shares"]), (form.num_frames - 1) // (latent_frames - 1)
        own = latent_frames / (latent_frames + len(shares))
        note = (
            f"Together {100 * shares.sum():.1f} %, at most {100 * shares.max():.1f} %; the rest falls on the chunk "
            f"itself. If every token got the same (dashed), {100 * (1 - own):.0f} %. Chunks share a frame, so some "
            "times come twice."
        )
        frames = self.frames(room)[[stride * time for time in last["times"]]]
        title = f"What the queries of “{self.name}” attend to while the last chunk is made, by latent frame"
        return [Watched(title, note, last["times"], frames, shares, (1 - own) / len(shares))]


def section(room: str, clip: Clip, form: VideoFormat, latent_frames: int, made: Sequence[Made]) -> RolloutSection:
    """Of one room."""
    real, cameras = truth(clip, form)
    yaw = turned(cameras)
    rollouts = [MadeVideo("truth", "", real), *(MadeVideo(m.name, m.note(room), m.frames(room)) for m in made)]
    people = "with people" if has_people(room) else "without people"
    return RolloutSection(
        title=f"{room}, {people}",
        note=f"The camera turns by {max(abs(y) for y in yaw):.0f}° and back, in {clip.chunks} chunks.",
        rollouts=rollouts,
        strip_title="Frame by frame; how far the camera is turned",
        frame_marks=[f"{y:.0f}°" for y in yaw],
        watched=[found for m in made for found in m.watched(room, form, latent_frames)],
    )


def turned(cameras: Cameras) -> list[float]:
    """Degrees from the first frame, to the left, along a path that only turns."""
    forward = cameras.c2w[:, :3, 2]
    yaw = torch.atan2(forward[:, 1], forward[:, 0])
    steps = torch.remainder(yaw.diff() + math.pi, 2 * math.pi) - math.pi
    return [0.0, *torch.rad2deg(steps.cumsum(0)).tolist()]


def runs(command: Report) -> list[Made]:
    """Those that are there; the others are named."""
    out, found = command.config.out, []
    for name in command.methods:
        folder = out / f"{name}-{command.run}"
        if (folder / "measured.jsonl").exists():
            found.append(Made(name, folder, read_rows(folder / "measured.jsonl", Row)))
        else:
            print(f"{folder} was not evaluated and is left out")
    if not found:
        raise InputError(f"No run in {out} was evaluated; run recipes.memlearner.studies.claims first.")
    return found


def bank_form(config: Config) -> tuple[VideoFormat, int]:
    """The video format of the banks, and the latent frames of a chunk."""
    bank = MemoryBank.open(config.folder / "test")
    form = VideoFormat(**{field.name: bank.info[field.name] for field in fields(VideoFormat)})
    return form, bank.clip(bank.ids[0]).latents.shape[1]


def trained(folder: Path) -> str:
    """Steps of a run, and seconds they took, by its log."""
    last = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    state = torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True, mmap=True)
    return f"{state['step']} steps, {last['seconds']:.0f} s"


def main(command: Report) -> int:
    """Write the page and the sheet; the exit code."""
    config, made = command.config, runs(command)
    form, latent_frames = bank_form(config)
    rooms = test_rooms(command.rooms)
    clips = {room: clip_of("revisit", room, config, form) for room in rooms}
    sections = [section(room, clips[room], form, latent_frames, made) for room in rooms]
    settings = {m.name: trained(m.folder) for m in made}
    page = render_rollouts("Turning away and coming back", INTRO, CAVEAT, sections, settings, form.fps)
    (config.out / "report.html").write_text(page, encoding="utf-8")
    rows = [(f"{s.title}: {s.note}", [(f"{r.name}\n{r.note}", r.frames) for r in s.rollouts]) for s in sections]
    contact_sheet(rows, columns=13, height=form.height).save(config.out / "report.png")
    print(config.out / "report.html")
    return 0


if __name__ == "__main__":
    run_command(lambda: main(parse(Report, __doc__)))
