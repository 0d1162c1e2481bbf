"""What do low and high tokens carry? Low tokens of one clip with high tokens of another: whose colour, whose motion?

    python -m recipes.dit_mem.studies.branches --preset tiny --pairs 48

Pairs are falls of the test bank that differ in colour and in planet. Without a prompt and without guidance, each pair
is generated from the memory of the one clip, of the other, and of both mixtures, with the same noise. A video is
compared with a clip by its body's colour, by its path, by its gravity, and by its scene: what stands still. "both" is
the clip of which all tokens were shown, "neither" the one of the pair that was not; between these two lie "low" and
"high", the clips of the mixtures. An encoder without two branches has the first two alone.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Literal

from jaxtyping import UInt8
from torch import Tensor
from tqdm import tqdm

from memkit.banks import MemoryBank
from memkit.encoders import DitMemEncoder, FrequencyEncoder, MemoryEncoder, load_encoder
from memkit.evaluation import Measure, ResultStore, Table, field, intervals, write_tables
from memkit.generation import generate_videos
from memkit.memory import Memory
from memkit.metrics import body_found, correlation, measure_law, scene_distance
from memkit.metrics.states import frame_shares
from memkit.training import fingerprint, report_done, run_command
from memkit.worlds.law_clips import constants_of, law_of
from memkit.worlds.solids import Fall
from recipes.dit_mem.memories import encode
from recipes.dit_mem.parts import digest, load_backbone
from recipes.dit_mem.presets import Command, parse

Role = Literal["both", "neither", "low", "high"]


@dataclass(frozen=True)
class Branches(Command):
    """The command line."""

    pairs: int = 48
    """Number of pairs; each gives two mixtures."""
    noise_seed: int = 42
    """Seed of the noise of the first pair; the next pairs count up."""


@dataclass(frozen=True)
class Likeness:
    """How like one clip a video is; ``condition`` is the part that the clip had in its memory."""

    id: str
    condition: Role
    colour: bool
    """Whether a body of the clip's colour is found in nine of ten frames."""
    path: float
    """Mean distance from the clip's path, in shares of the frame's width; NaN without a body of either colour."""
    gravity: float
    """Of the video, fitted."""
    of_clip: float
    """Gravity of the clip."""
    scene: float
    """Mean distance of what stands still from that of the clip, in shares of the range of colours."""


MEASURES = {
    "colour found": field("colour"),
    "scene distance, %": field("scene", 100),
    "path error, % of the frame": field("path", 100),
    "videos with a path": Measure(lambda row: float(not math.isnan(row.path))),
    "gravity, correlation": Measure((attrgetter("gravity"), attrgetter("of_clip")), correlation),
}


def pairs_of(bank: MemoryBank, count: int) -> list[tuple[str, str]]:
    """Falls in the order of the bank, each with one drawn from those of another colour and planet."""
    falls = {id: law for id in bank.ids if isinstance(law := law_of(id), Fall)}

    def partner(id: str) -> str:
        own = falls[id]
        unlike = [b for b, law in falls.items() if law.colour != own.colour and law.gravity != own.gravity]
        return random.Random(id).choice(unlike)

    return [(id, partner(id)) for id in list(falls)[:count]]


def likeness(video: UInt8[Tensor, "t h w c"], clip: str, other: str, role: Role, pair: str, fps: float) -> Likeness:
    """How like ``clip`` a video is; the body may have the colour of either clip of the pair."""
    law, strange = law_of(clip), law_of(other)
    gravity = constants_of(law)["gravity"]
    scene = scene_distance(video, law.video(len(video), fps, video.shape[1]))
    recoloured = replace(law, colour=strange.colour)
    found, found_other = body_found(video, law), body_found(video, recoloured)
    if not found and not found_other:
        return Likeness(pair, role, False, math.nan, math.nan, gravity, scene)
    fit = measure_law(video, law if found else recoloured, fps)
    return Likeness(pair, role, found, fit.state_error * frame_shares(law), fit.gravity, gravity, scene)


def memory_of(encoder: MemoryEncoder, bank: MemoryBank, low: Sequence[str], high: Sequence[str]) -> Memory | None:
    """One clip per row: its low tokens, with the high tokens of the other; alone if the encoder has no two branches."""
    a, b = ([[id] for id in ids] for ids in (low, high))
    return encode(encoder, bank, a, b if isinstance(encoder, FrequencyEncoder | DitMemEncoder) else None)


def compare(command: Branches) -> list[Likeness]:
    """All rows of a run; what is missing is generated and measured."""
    config = command.config
    bank, backbone = MemoryBank.open(config.test_bank), load_backbone(config)
    encoder = load_encoder(config.encoder_folder, config.encoder).to(backbone.device)
    settings = {"bank": bank.fingerprint, "noise_seed": command.noise_seed, "sampling_steps": config.sampling_steps}
    settings |= {"encoder": digest(config.encoder_folder), "backbone": fingerprint(*backbone.transformers)}
    rows = ResultStore(config.out / "branches.jsonl", settings, Likeness)
    fps = backbone.video_format.fps
    mixed = [(0, 1), (1, 0)] if isinstance(encoder, FrequencyEncoder | DitMemEncoder) else []
    for i, pair in enumerate(tqdm(pairs_of(bank, command.pairs), desc="pairs")):
        todo = [which for which in [(0, 0), (1, 1), *mixed] if rows.missing(_roles(which)[1], [_name(pair, which)])]
        if not todo:
            continue
        videos = generate_videos(
            backbone,
            [""] * len(todo),
            memory_of(encoder, bank, [pair[low] for low, _ in todo], [pair[high] for _, high in todo]),
            seeds=[command.noise_seed + i] * len(todo),
            steps=config.sampling_steps,
            guidance_scale=1.0,
            text_length=config.text_length,
        )
        for which, video in zip(todo, videos, strict=True):
            clips = pair[which[0]], pair[1 - which[0]]
            for role, clip, other in zip(_roles(which), clips, clips[::-1], strict=True):
                rows.add(likeness(video, clip, other, role, _name(pair, which), fps))
    return list(rows.rows.values())


def _roles(which: tuple[int, int]) -> tuple[Role, Role]:
    """Of the clip with the low tokens, and of the other, for (low, high) of a pair."""
    return ("both", "neither") if which[0] == which[1] else ("low", "high")


def _name(pair: tuple[str, str], which: tuple[int, int]) -> str:
    return f"{pair[0]} {pair[1]} low {which[0]} high {which[1]}"


def table(runs: Sequence[Sequence[Likeness]]) -> Table:
    """By part in the memory: colour found, path error, correlation of gravity with the clip's; over runs and videos."""
    out: Table = {}
    for role in dict.fromkeys(row.condition for run in runs for row in run):
        rows = [sorted((row for row in run if row.condition == role), key=lambda row: row.id) for run in runs]
        out[role] = intervals(MEASURES, [{(role, row.id): row for row in some} for some in rows], role)
    return out


def main(command: Branches) -> int:
    """Measure, print the table and write it to OUT/branches.json; the exit code."""
    file = command.config.out / "branches.json"
    write_tables(file, {"": table([compare(command)])})
    report_done(file)
    return 0


if __name__ == "__main__":
    run_command(lambda: main(parse(Branches, __doc__)))
