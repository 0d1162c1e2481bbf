"""Test what the low and the high tokens carry, by mixing low tokens of one clip with high tokens of another.

    python -m recipes.dit_mem.studies.branches --preset tiny --pairs 48

Pairs are falls of the test bank that differ in colour and in planet. Without prompt and guidance, videos are generated
from the memory of each clip of a pair and from both mixtures, with the same noise. A video is compared with a clip by
the colour, path and gravity of the body and by the static scene. The row "both" compares with the clip of all tokens,
"neither" with the other clip of the pair, "low" and "high" with the clips of the mixtures. Encoders without two
branches have the first two rows only.
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
    """Number of pairs; each has two mixtures."""
    noise_seed: int = 42
    """Seed of the noise of the first pair; each further pair adds 1."""


@dataclass(frozen=True)
class Likeness:
    """The similarity of a video to one clip; ``condition`` says which tokens of its memory came from the clip."""

    id: str
    condition: Role
    colour: bool
    """Whether a body of the colour of the clip is found in ≥ 90 % of the frames."""
    path: float
    """Mean distance from the path of the clip, relative to the width of the frame; NaN without a body."""
    gravity: float
    """Gravity fitted to the video."""
    of_clip: float
    """True gravity of the clip."""
    scene: float
    """Mean distance of the static scene from that of the clip, relative to the range of colours."""


MEASURES = {
    "colour found": field("colour"),
    "scene distance, %": field("scene", 100),
    "path error, % of the frame": field("path", 100),
    "videos with a path": Measure(lambda row: float(not math.isnan(row.path))),
    "gravity, correlation": Measure((attrgetter("gravity"), attrgetter("of_clip")), correlation),
}


def pairs_of(bank: MemoryBank, count: int) -> list[tuple[str, str]]:
    """Falls in the order of the bank, each with a random fall of another colour and planet."""
    falls = {id: law for id in bank.ids if isinstance(law := law_of(id), Fall)}

    def partner(id: str) -> str:
        own = falls[id]
        unlike = [b for b, law in falls.items() if law.colour != own.colour and law.gravity != own.gravity]
        return random.Random(id).choice(unlike)

    return [(id, partner(id)) for id in list(falls)[:count]]


def likeness(video: UInt8[Tensor, "t h w c"], clip: str, other: str, role: Role, pair: str, fps: float) -> Likeness:
    """The similarity of a video to ``clip``; its body may have the colour of either clip of the pair."""
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
    """Low tokens of one clip and high tokens of another per row; all of the first if there are no two branches."""
    a, b = ([[id] for id in ids] for ids in (low, high))
    return encode(encoder, bank, a, b if isinstance(encoder, FrequencyEncoder | DitMemEncoder) else None)


def compare(command: Branches) -> list[Likeness]:
    """Generate and measure what is missing. Returns all rows of a run."""
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
    """The roles of the clip of the low tokens and of the other clip; ``which`` are the clips of low and high tokens."""
    return ("both", "neither") if which[0] == which[1] else ("low", "high")


def _name(pair: tuple[str, str], which: tuple[int, int]) -> str:
    return f"{pair[0]} {pair[1]} low {which[0]} high {which[1]}"


def table(runs: Sequence[Sequence[Likeness]]) -> Table:
    """`MEASURES` by role of the clip in the memory, over runs and videos."""
    out: Table = {}
    for role in dict.fromkeys(row.condition for run in runs for row in run):
        rows = [sorted((row for row in run if row.condition == role), key=lambda row: row.id) for run in runs]
        out[role] = intervals(MEASURES, [{(role, row.id): row for row in some} for some in rows], role)
    return out


def main(command: Branches) -> int:
    """Measure, print the table and write it to OUT/branches.json. Returns the exit code."""
    file = command.config.out / "branches.json"
    write_tables(file, {"": table([compare(command)])})
    report_done(file)
    return 0


if __name__ == "__main__":
    run_command(lambda: main(parse(Branches, __doc__)))
