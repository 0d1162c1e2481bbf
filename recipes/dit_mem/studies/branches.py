"""What do low and high tokens carry? Low tokens of one clip with high tokens of another: whose colour, whose motion?

    python -m recipes.dit_mem.studies.branches --preset tiny --pairs 48

Pairs are falls of the test bank that differ in colour and in planet. Without a prompt and without guidance, each is
generated from the memory of the one clip, of the other, and of both mixtures, with the same noise. A video is held
against a clip by its body's colour, by its path, by its gravity, and by its scene: what stands still. "both" is the
clip of which all tokens were shown, "neither" the one of the pair that was not; between these two lie "low" and "high",
the clips of the mixtures. An encoder without two branches has the first two alone. OUT/branches.json has the numbers.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from memkit.banks import MemoryBank
from memkit.encoders import Encoder, PatchEncoder, load_encoder
from memkit.generation import generate_videos
from memkit.memory import Memory
from memkit.metrics import Interval, body_found, bootstrap_runs, correlation, measure_law
from memkit.metrics.states import frame_shares
from memkit.worlds.solids import Fall
from recipes.common.commands import run_command
from recipes.common.results import ResultStore
from recipes.common.tables import Table
from recipes.common.training import fingerprint
from recipes.dit_mem.generate import digest
from recipes.dit_mem.laws import constants_of, law_of
from recipes.dit_mem.memories import encode
from recipes.dit_mem.parts import load_backbone
from recipes.dit_mem.presets import Command, parse
from recipes.dit_mem.tables import write

Role = Literal["both", "neither", "low", "high"]


@dataclass(frozen=True)
class Branches(Command):
    """The command line."""

    pairs: int = 48
    """Of falls of the test bank; each gives two mixtures."""
    noise_seed: int = 42
    """Of the first pair; they count up."""


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


def pairs_of(bank: MemoryBank, count: int) -> list[tuple[str, str]]:
    """Falls in the order of the bank, each with one drawn from those of another colour and planet."""
    falls = {id: law for id in bank.ids if isinstance(law := law_of(id), Fall)}

    def partner(id: str) -> str:
        own = falls[id]
        unlike = [b for b, law in falls.items() if law.colour != own.colour and law.gravity != own.gravity]
        return random.Random(id).choice(unlike)

    return [(id, partner(id)) for id in list(falls)[:count]]


def likeness(video: UInt8[Tensor, "t h w c"], clip: str, other: str, role: Role, pair: str, fps: float) -> Likeness:
    """Of a video to ``clip``; the body may have the colour of either clip of the pair."""
    law, strange = law_of(clip), law_of(other)
    gravity = constants_of(law)["gravity"]
    scene = (still(video) - still(law.video(len(video), fps, video.shape[1]))).abs().mean().item() / 255
    own, its = body_found(video, law), body_found(video, replace(law, colour=strange.colour))
    if not own and not its:
        return Likeness(pair, role, False, math.nan, math.nan, gravity, scene)
    seen = law if own else replace(law, colour=strange.colour)
    found = measure_law(video, seen, fps)
    path = found.state_error * frame_shares(law)
    return Likeness(pair, role, own, path, found.gravity, gravity, scene)


def still(video: UInt8[Tensor, "t h w c"]) -> Float[Tensor, "h w c"]:
    """Each pixel's median over time: the scene without what passes through it."""
    return video.float().median(dim=0).values


def memory_of(encoder: Encoder, bank: MemoryBank, low: Sequence[str], high: Sequence[str]) -> Memory | None:
    """One clip a row: its low tokens, with the high tokens of the other; patches have the one clip alone."""
    a, b = ([[id] for id in ids] for ids in (low, high))
    return encode(encoder, bank, a, None if isinstance(encoder, PatchEncoder) else b)


def compare(command: Branches) -> list[Likeness]:
    """Generate and measure what is missing; all rows."""
    config = command.config
    bank, backbone = MemoryBank.open(config.test_bank), load_backbone(config)
    encoder = load_encoder(config.encoder_folder).to(backbone.device)
    made = {"bank": bank.fingerprint, "noise_seed": command.noise_seed, "sampling_steps": config.sampling_steps}
    made |= {"encoder": digest(config.encoder_folder), "backbone": fingerprint(*backbone.transformers)}
    rows = ResultStore(config.out / "branches.jsonl", made, Likeness)
    fps = backbone.video_format.fps
    mixed = [] if isinstance(encoder, PatchEncoder) else [(0, 1), (1, 0)]
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
    made: Table = {}
    for role in dict.fromkeys(row.condition for run in runs for row in run):
        mine = [{row.id: row for row in run if row.condition == role} for run in runs]
        ids = sorted({id for run in mine for id in run})

        def column(name: str, mine: list[dict[str, Likeness]] = mine, ids: list[str] = ids) -> np.ndarray:
            return np.array([[float(getattr(run[id], name)) if id in run else math.nan for id in ids] for run in mine])

        path = column("path")
        made[role] = {
            "colour found": bootstrap_runs(np.mean, column("colour")),
            "scene distance, %": bootstrap_runs(np.mean, 100 * column("scene")),
            "path error, % of the frame": bootstrap_runs(np.mean, 100 * path),
            "videos with a path": _share(path),
            "gravity, correlation": bootstrap_runs(correlation, column("gravity"), column("of_clip")),
        }
    return made


def _share(values: np.ndarray) -> Interval:
    return bootstrap_runs(np.mean, (~np.isnan(values)).astype(float))


def main(command: Branches) -> int:
    """Measure, print the table, write it; the exit code."""
    write(command.config.out / "branches.json", {"": table([compare(command)])})
    return 0


if __name__ == "__main__":
    run_command(lambda: main(parse(Branches, __doc__)))
