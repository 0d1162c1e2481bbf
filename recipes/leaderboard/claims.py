"""The claims of three papers that can be put as a comparison of cells, and what the rows say of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scipy import stats

from memkit.metrics.bootstrap import Interval
from memkit.probes import ProbeResult
from recipes.leaderboard.cells import Cell

MARGIN = 0.05
"""A difference in accuracy below this counts as none."""
SEEDS = 3
"""A verdict needs so many seeds."""

Verdict = Literal["holds", "fails", "not shown"]


@dataclass(frozen=True)
class Claim:
    """Of two cells, one is better than the other, or as good."""

    text: str
    source: str
    """Paper, and section or table."""
    better: Cell
    than: Cell
    relation: Literal["more", "same"] = "more"

    def differences(self, rows: Sequence[ProbeResult]) -> list[float]:
        """Of the two cells, one per seed that has both: training and test samples of a seed are the same."""
        first, second = (_by_seed(cell, rows) for cell in (self.better, self.than))
        return [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]

    def learned(self, rows: Sequence[ProbeResult]) -> bool:
        """Whether one of the cells is above chance; if not, they are equal for want of training.

        A comparison with no memory at all is one with chance, and tells something anyway.
        """
        means = [statistics.fmean(_by_seed(cell, rows).values()) for cell in (self.better, self.than)]
        return self.than.mechanism == "none" or max(means) > self.better.chance + MARGIN

    def verdict(self, rows: Sequence[ProbeResult]) -> Verdict:
        """Whether the claim holds, by the 95 % interval of the difference over seeds.

        "More" holds if the interval is above 0, and fails if it is below `MARGIN`. "As good" holds if it lies within
        ± `MARGIN`, and fails if it lies outside. Anything else is not shown, nor is it with fewer than `SEEDS` seeds or
        where nothing was `learned`.
        """
        found = self.differences(rows)
        if len(found) < SEEDS or not self.learned(rows):
            return "not shown"
        _, low, high = interval(found)
        if self.relation == "more":
            return "holds" if low > 0 else "fails" if high < MARGIN else "not shown"
        if low >= -MARGIN and high <= MARGIN:
            return "holds"
        return "fails" if low > MARGIN or high < -MARGIN else "not shown"


def interval(values: Sequence[float]) -> Interval:
    """The mean over seeds and its 95 % interval by Student's t; with fewer than two values, no bounds (NaN)."""
    if len(values) < 2:
        return Interval(statistics.fmean(values) if values else math.nan, math.nan, math.nan)
    mean, error = statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * error
    return Interval(mean, mean - half, mean + half)


def _by_seed(cell: Cell, rows: Sequence[ProbeResult]) -> dict[int, float]:
    return {row.seed: cell.value(row) for row in cell.rows(rows)}


_QUERIES, _RECALL_QUERIES = Cell("occlusion", "queries (noise)"), Cell("recall", "queries (noise)")
_FORCED = Cell("evolve", "teacher forcing")
_ENCODER = Cell("law", "encoder", kind="law")
_MEMLEARNER, _REMIND, _DIT_MEM = "MemLearner", "ReMind", "DiT-Mem"


def _forced(without: str, at: tuple[str, object]) -> tuple[Cell, Cell]:
    return Cell("evolve", "teacher forcing", at=at), Cell("evolve", f"teacher forcing, no {without}", at=at)


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "Where walls hide what is asked for, learned queries find more than a rule of views that takes one frame",
        f"{_MEMLEARNER}, comparison with Context-as-Memory on data with occlusion",
        _QUERIES,
        Cell("occlusion", "fov"),
    ),
    Claim("The same against two frames", _MEMLEARNER, _QUERIES, Cell("occlusion", "fov 2")),
    Claim("The same against four, all that overlap", _MEMLEARNER, _QUERIES, Cell("occlusion", "fov 4")),
    Claim(
        "The same against a rule that knows depth",
        f"{_MEMLEARNER}, comparison with VMem",
        _QUERIES,
        Cell("occlusion", "fov, depth", {"depth": True}),
    ),
    Claim(
        "Without walls, queries and the rule are nearly as good",
        f"{_MEMLEARNER}, static data of Context-as-Memory",
        Cell("occlusion", "queries (noise)", at=("walls", 0)),
        Cell("occlusion", "fov", at=("walls", 0)),
        "same",
    ),
    Claim(
        "Queries must see the prediction (Q→P)",
        f"{_MEMLEARNER}, ablation of the attention mask",
        _RECALL_QUERIES,
        Cell("recall", "queries (noise), no Q→P"),
    ),
    Claim(
        "More than one query layer is needed",
        f"{_MEMLEARNER}, ablation of the number of query layers",
        Cell("recall", "queries (noise), 2 layers"),
        Cell("recall", "queries (noise), 1 layer"),
    ),
    Claim(
        "Query layers beyond the first half bring no more",
        f"{_MEMLEARNER}, ablation of the number of query layers",
        _RECALL_QUERIES,
        Cell("recall", "queries (noise), 2 layers"),
        "same",
    ),
    Claim(
        "Queries in the model's own layers find more than a separate module with random weights",
        f"{_MEMLEARNER}, ablation of the separate module",
        _RECALL_QUERIES,
        Cell("recall", "query module"),
    ),
    Claim(
        "The separate module is not used at all: the model is as without memory",
        f"{_MEMLEARNER}, ablation of the separate module",
        Cell("recall", "query module"),
        Cell("recall", "none"),
        "same",
    ),
    Claim(
        "Queries that begin as a copy of the prediction are as good as noise",
        f"{_MEMLEARNER}, ablation of the query's input",
        Cell("recall", "queries (copy)"),
        _RECALL_QUERIES,
        "same",
    ),
    Claim(
        "Noise at timestep 0 is as good as at the timestep of the prediction",
        f"{_MEMLEARNER} does not state the timestep",
        _RECALL_QUERIES,
        Cell("recall", "queries (noise), timestep of P"),
        "same",
    ),
    Claim(
        "A copy at timestep 0 is as good as at the timestep of the prediction",
        f"{_MEMLEARNER} does not state the timestep",
        Cell("recall", "queries (copy), timestep 0"),
        Cell("recall", "queries (copy)"),
        "same",
    ),
    Claim(
        "A process goes on while nothing is seen of it: teacher forcing and a cache against no memory",
        f"{_REMIND}, main claim",
        _FORCED,
        Cell("evolve", "none"),
    ),
    Claim(
        "The curriculum as a whole helps, on a plain record",
        f"{_REMIND}, curriculum",
        _FORCED,
        Cell("evolve", "teacher forcing, no curriculum"),
    ),
    Claim(
        "Node drop helps where two frames are missing", f"{_REMIND}, curriculum", *_forced("node drop", ("dropped", 2))
    ),
    Claim(
        "Noisy memory helps where the record is noisy",
        f"{_REMIND}, curriculum",
        *_forced("noisy memory", ("noise", 0.6)),
    ),
    Claim(
        "Frontier continuation helps, on a plain record", f"{_REMIND}, curriculum", *_forced("frontier", ("noise", 0.0))
    ),
    Claim(
        "The reference cache helps after a long gap",
        f"{_REMIND}, curriculum",
        *_forced("reference cache", ("gaps", [6])),
    ),
    Claim(
        "Camera phases let a cache find what was seen before the camera looked away",
        f"{_REMIND}, PM-RoPE",
        Cell("recall", "kv cache, pm-rope"),
        Cell("recall", "kv cache"),
    ),
    Claim(
        "Camera terms for values and outputs add to the phases",
        f"{_REMIND}, PM-RoPE",
        Cell("recall", "kv cache, pm-rope full"),
        Cell("recall", "kv cache, pm-rope"),
    ),
    Claim(
        "Clips carry a law into a frozen model", f"{_DIT_MEM}, main claim", _ENCODER, Cell("law", "none", kind="law")
    ),
    Claim(
        "It is the clips of the name that count, not those of another",
        f"{_DIT_MEM}, retrieval",
        _ENCODER,
        Cell("law", "encoder", condition="another", kind="law"),
    ),
    Claim(
        "It is what the clips show that counts, not that there are any",
        f"{_DIT_MEM}, retrieval",
        _ENCODER,
        Cell("law", "encoder", condition="random", kind="law"),
    ),
    Claim(
        "More clips carry more",
        f"{_DIT_MEM}, number of references",
        Cell("law", "encoder", at=("clips", 3)),
        Cell("law", "encoder", at=("clips", 1)),
    ),
    Claim(
        "Low and high frequencies in branches of their own carry more of the law than two branches without filters",
        f"{_DIT_MEM}, filters",
        _ENCODER,
        Cell("law", "encoder, no filters", kind="law"),
    ),
    Claim(
        "High frequencies alone carry more of the law than low ones alone",
        f"{_DIT_MEM}, filters",
        Cell("law", "encoder, high bands", kind="law"),
        Cell("law", "encoder, low bands", kind="law"),
    ),
    Claim(
        "The law is in the high branch: it stays when the low tokens are of another sample, rather than the high ones",
        f"{_DIT_MEM}, what the branches carry",
        Cell("law", "encoder", condition="low of another", kind="law"),
        Cell("law", "encoder", condition="high of another", kind="law"),
    ),
    Claim(
        "The look is in the low branch, likewise",
        f"{_DIT_MEM}, what the branches carry",
        Cell("law", "encoder", condition="high of another", kind="look"),
        Cell("law", "encoder", condition="low of another", kind="look"),
    ),
)
