"""The page of evidence: each claim of the three papers, where it was tested, and what came of it.

What the recipes measured on tiny-wan is quoted from their pages, which a test compares; verdicts on probes follow from
the rows of the leaderboard.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from memkit.files.atomic import write_text
from memkit.probes import ProbeResult
from recipes.leaderboard.claims import CLAIMS, SEEDS, Claim, interval
from recipes.leaderboard.papers import dit_mem, memlearner, remind
from recipes.leaderboard.papers.evidence import Evidence

PAGE = "evidence.md"

INTRODUCTION = """# Evidence

What three papers claim, where memkit tested it, and what came of it. **Nothing here is from a real Wan**: the largest
transformer that was trained has 5.2 million parameters. A verdict is about a mechanism at this size, not about the
figures of a paper.

- **tiny-wan** is the small model that memkit ships ([tiny-wan.md](tiny-wan.md)), with rendered worlds. Its verdicts and
  figures are those of the recipes' pages, with 95 % intervals over clips and training runs; the pages say how each was
  measured.
- **probes** are small tasks whose answer lies in memory and nowhere else ([probes.md](probes.md)). A figure is the
  difference in accuracy of two cells of the [leaderboard](leaderboard.md), with its 95 % interval over seeds. With
  fewer than {seeds} seeds there is no verdict.
- **not tested** means that memkit has the command or the part, and that nobody has run it at a size that could tell.

The page is written by `python -m recipes.leaderboard`, the command of all verdicts on probes.
"""


PAPERS = {
    "DiT-Mem (arXiv 2511.19229)": dit_mem.CLAIMS,
    "MemLearner (arXiv 2606.31734)": memlearner.CLAIMS,
    "ReMind (arXiv 2605.25333)": remind.CLAIMS,
}


def write_evidence(rows: Sequence[ProbeResult], out: Path) -> Path:
    """Write evidence.md to a folder; its path. Raises `FileError` where it cannot be written."""
    write_text(page := out / PAGE, evidence_text(rows))
    return page


def evidence_text(rows: Sequence[ProbeResult]) -> str:
    """The page in Markdown."""
    parts = [INTRODUCTION.format(seeds=SEEDS)]
    for paper, claims in PAPERS.items():
        lines = ["| claim | tested on | verdict | figure | command |", "|---|---|---|---|---|"]
        for evidence in claims:
            lines += [_row(cells) for cells in _cells(evidence, rows)]
        parts.append(f"## {paper}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def _cells(evidence: Evidence, rows: Sequence[ProbeResult]) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    if (own := evidence.tiny_wan) is not None:
        figure = own.figure.replace("‹", "").replace("›", "")
        found.append((f"[tiny-wan]({own.page})", f"**{own.verdict}**", figure, f"`{own.command}`"))
    for claim in map(claim_of, evidence.probes):
        found.append(("[probes](leaderboard.md#claims)", *_on_probes(claim, rows), ""))
    if not found:
        found.append(("–", "**not tested**", evidence.note, ""))
    return [((evidence.claim if i == 0 else ""), *cells) for i, cells in enumerate(found)]


def _on_probes(claim: Claim, rows: Sequence[ProbeResult]) -> tuple[str, str]:
    differences = claim.differences(rows)
    if not differences:
        return "not measured yet", claim.text
    mean, low, high = interval(differences)
    shown = f"{mean:.2f}" if len(differences) < 2 else f"{mean:.2f} [{low:.2f}, {high:.2f}]"
    seeds = f"{len(differences)} seed{'s' * (len(differences) != 1)}"
    return f"**{claim.verdict(rows)}**", f"{claim.text}: {shown} ({seeds})"


def claim_of(text: str) -> Claim:
    """The claim of the leaderboard with a text."""
    (claim,) = [claim for claim in CLAIMS if claim.text == text]
    return claim


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"
