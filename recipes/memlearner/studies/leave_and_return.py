"""Leave-and-return in galleries: the camera turns away and comes back, with memory and without, from the same noise.

    python -m recipes.memlearner.studies.leave_and_return --preset gallery
    python -m recipes.memlearner.studies.leave_and_return --preset gallery --page docs/gallery.md

Only the first frame is rendered; four chunks are generated, each turning by 90°. The protocol is Echo-Memory's (arXiv
2606.09803), whose chunks turn by 45°; a window of 20 latent frames would then have lost the first view by the time it
comes back. The last frame, which shows the first view again, is compared with the first: MSE, PSNR and SSIM with the
settings of Echo-Memory, but at the 64×64 pixels of the worlds. Two more columns guard against the ways to cheat it:

- *panels*: the share of the panels in the last frame that have the colour of the gallery; by chance 1 of 8 is right;
- *way*: PSNR of all generated frames against the rendered gallery, which a video that stands still does not follow.

Controls are the rendered video through the autoencoder (ceiling), the first frame held (the best score of the return,
and no video), and the first view of another gallery (floor). Galleries have no figure. Rows are in TO/returns.jsonl;
intervals are 95 % bootstraps over galleries, of one training run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

import memkit
from memkit.backbones import VideoFormat
from memkit.errors import InputError
from memkit.evaluation import Measure, ResultStore, Table, compare, exactly, field, intervals, to_markdown, write_tables
from memkit.evaluation.benchmarks import return_scores
from memkit.files.atomic import write_text
from memkit.metrics import mean_psnr, psnr
from memkit.rollout import ContextMethod, RolloutAttention
from memkit.training import fingerprint, load_backbone, report_done, run_command
from memkit.worlds.gallery import Gallery
from memkit.worlds.gallery_scores import read_colours, true_colours, views
from memkit.worlds.gallery_tours import GalleryClip
from memkit.worlds.paths import Path as TurnedPath
from memkit.worlds.paths import Turn
from recipes.memlearner.evaluate import Evaluate, Evaluator
from recipes.memlearner.gallery_scores import WITHOUT
from recipes.memlearner.methods import load_method
from recipes.memlearner.presets import parse
from recipes.memlearner.scores import Clip, truth

SCHEDULES = {"turn180_4chunk": (90.0, 90.0, -90.0, -90.0), "rot360_4chunk": (90.0,) * 4}
"""Degrees to the left per chunk: half a turn and back, and once around."""
CONTROLS = ("autoencoder", "first frame held", "another gallery")
DIFFERENCE = "with memory less without"
BEGIN, END = "<!-- leave and return -->", "<!-- end of leave and return -->"
"""What the tables of a page stand between."""


@dataclass(frozen=True)
class ReturnRow:
    """The scores of one video."""

    id: str
    """Name of the gallery."""
    condition: str
    """The schedule; followed by `WITHOUT`, or by " / " and one of `CONTROLS`."""
    mse: float
    """Mean squared error of the last frame against the first, of values from 0 to 255."""
    psnr: float
    """The same in dB, 100 at most."""
    ssim: float
    panels: float
    """Share of the panels in the last frame with the right colour; NaN where none can be read."""
    way: float
    """PSNR in dB of all frames after the first against the rendered ones."""


@dataclass(frozen=True)
class Returns(Evaluate):
    """The command line."""

    weights: Path = Path(memkit.__file__).parent / "weights" / "tiny-gallery"
    """Folder of the trained run; by default the shipped one."""
    to: Path = Path("out/leave-and-return")
    """Folder of the results."""
    page: Path | None = None
    """Page whose tables are replaced by the measured ones."""


def clip_of(name: str, schedule: str, form: VideoFormat) -> Clip:
    """One frame from the middle of a gallery, and as many chunks as the schedule has turns."""
    seconds, gallery = (form.num_frames - 1) / form.fps, Gallery.named(name)
    turns = [Turn(degrees, abs(degrees) / seconds) for degrees in SCHEDULES[schedule]]
    path = TurnedPath((0.0, 0.0, gallery.yaw)).then(*turns)
    return Clip(GalleryClip(gallery, path, 0.0, seconds), 0, len(turns))


def score(
    condition: str, clip: Clip, form: VideoFormat, video: UInt8[Tensor, "t h w 3"], real: UInt8[Tensor, "t h w 3"]
) -> ReturnRow:
    """The scores of a video whose first frame is the rendered one."""
    room = clip.room
    assert isinstance(room, GalleryClip)
    at = views(room, [len(video) - 1], form.fps, video.shape[2])
    right = (read_colours(video[-1:], at) == true_colours(room.gallery))[at.readable]
    panels = float(right.double().mean()) if len(right) else math.nan
    way = mean_psnr(psnr(video[1:], real[1:]))
    return ReturnRow(room.source, condition, **return_scores(video[-1], real[0], None), panels=panels, way=way)


def measure(command: Returns) -> dict[tuple[str, str], ReturnRow]:
    """Measure what is missing. Returns all rows."""
    config = command.config
    backbone = load_backbone(config, trained=command.weights)
    method = load_method(config, backbone, command.weights / "method").eval()
    names = ("model", "sampling_steps", "guidance_scale", "history_guidance", "frames")
    settings = {name: getattr(config, name) for name in names} | {"noise_seed": command.noise_seed}
    settings["weights"] = fingerprint(backbone.transformer, method)
    rows = ResultStore(command.to / "returns.jsonl", settings, ReturnRow)
    evaluator = Evaluator(command, backbone)
    evaluator.names = [_name(i) for i in range(command.rooms)]
    conditions = [schedule + suffix for schedule in SCHEDULES for suffix in ("", WITHOUT)]
    with rows.progress(conditions, evaluator.names):
        for condition in conditions:
            for batch in rows.batches(condition, evaluator.names, command.at_once):
                _generate(evaluator, method, condition, batch, rows)
    for schedule in SCHEDULES:
        _add_controls(evaluator, schedule, rows)
    return dict(rows.rows)


def _name(number: int) -> str:
    """The name of a gallery without a figure."""
    return f"test-{number:05d}"


def _generate(
    evaluator: Evaluator, method: ContextMethod, condition: str, batch: list[str], rows: ResultStore[ReturnRow]
) -> None:
    form, schedule = evaluator.form, condition.removesuffix(WITHOUT)
    clips = [clip_of(name, schedule, form) for name in batch]
    truths = [truth(clip, form) for clip in clips]
    real = torch.stack([frames for frames, _ in truths])
    cameras = type(truths[0][1])(*(torch.stack([getattr(at, f) for _, at in truths]) for f in ("c2w", "intrinsics")))
    forget = condition.endswith(WITHOUT)
    videos = evaluator.roll_out(batch, clips, real, cameras, RolloutAttention(method), forget)
    for clip, video, frames in zip(clips, videos, real, strict=True):
        rows.add(score(condition, clip, form, video, frames))


def _add_controls(evaluator: Evaluator, schedule: str, rows: ResultStore[ReturnRow]) -> None:
    form, names = evaluator.form, evaluator.names
    conditions = [f"{schedule} / {control}" for control in CONTROLS]
    for name in rows.missing(conditions[-1], names):
        clip = clip_of(name, schedule, form)
        real, _ = truth(clip, form)
        other, _ = truth(clip_of(_name(names.index(name) + 1), schedule, form), form)
        videos = evaluator.through_autoencoder(real), real[:1].expand_as(real), other
        for condition, video in zip(conditions, videos, strict=True):
            rows.add(score(condition, clip, form, video, real))


MEASURES: dict[str, Measure] = {
    "MSE": field("mse"),
    "PSNR, dB": field("psnr"),
    "SSIM": field("ssim"),
    "panels": field("panels"),
    "way, dB": field("way"),
}


def tables(rows: dict[tuple[str, str], ReturnRow]) -> dict[str, Table]:
    """A table per schedule: with memory, without, their difference in pairs, and the controls."""
    found: dict[str, Table] = {}
    for schedule in SCHEDULES:
        found[schedule] = compare(MEASURES, {"with memory": [rows]}, schedule)
        found[schedule] |= compare(MEASURES, {"without memory": [rows]}, schedule + WITHOUT)
        found[schedule][DIFFERENCE] = intervals(MEASURES, [rows], schedule, ([rows], schedule + WITHOUT))
        for control in CONTROLS:
            found[schedule] |= compare(MEASURES, {control: [rows]}, f"{schedule} / {control}")
        held = found[schedule]["first frame held"]
        held |= {name: exactly(held[name].value) for name in ("MSE", "PSNR, dB", "SSIM")}
    return found


def digits(title: str) -> int:
    """Decimal places."""
    return 2


def write_page(page: Path, found: dict[str, Table], command: Returns) -> None:
    """Replace what stands between `BEGIN` and `END` on a page by the tables.

    Raises `InputError` where the page lacks one of them.
    """
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(f"{page} lacks {BEGIN} or {END}; put them where the tables are to stand.")
    config = command.config
    told = (
        f"{command.rooms} galleries of the test split, {config.sampling_steps} sampling steps, history guidance "
        f"{config.history_guidance:g}, noise seed {command.noise_seed}:"
    )
    shown = "\n\n".join(f"`{title}`, {told}\n\n{to_markdown(table, digits(title))}" for title, table in found.items())
    write_text(page, f"{before}{BEGIN}\n\n{shown}\n\n{END}{after}")


def main(command: Returns) -> int:
    """Measure and print; returns the exit code."""
    if command.config.suite != "gallery":
        raise InputError("This study is of galleries; give --preset gallery.")
    found = tables(measure(command))
    write_tables(command.to / "returns.json", found, digits=digits)
    if command.page is not None:
        write_page(command.page, found, command)
    report_done(command.page or command.to)
    return 0


if __name__ == "__main__":
    run_command(lambda: main(parse(Returns, __doc__)))
