"""The tables of outcomes, and their places in docs/reliability.md and docs/reliability-outcomes.md."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tests.faults.outcomes import GOOD, Result
from tests.faults.torture import PARTS, names_of

DOCS = Path(__file__).parents[2] / "docs"
PAGE, DETAILS = DOCS / "reliability.md", DOCS / "reliability-outcomes.md"
BEGIN, END = "<!-- outcomes: written by python -m tests.faults --write -->\n", "<!-- end of the outcomes -->\n"


class Table:
    """Numbers of outcomes by part and kind."""

    def __init__(self) -> None:
        self.counts = {(part, name): Counter[str]() for part in PARTS for name in names_of(part)}

    def add(self, part: str, results: Iterable[Result]) -> None:
        for result in results:
            self.counts[part, result.kind][result.outcome] += 1

    def summary(self) -> str:
        """One row per part."""
        return _table("part", [(part, self._total(part)) for part in PARTS])

    def overview(self, seed: int) -> str:
        """The summary, with the seed."""
        return f"{self.summary()}\nThese are the numbers of a run with seed {seed}.\n"

    def details(self, seed: int) -> str:
        """A table for each part, with one row per kind."""
        parts = [f"These are the numbers of a run with seed {seed}.\n"]
        for part in PARTS:
            rows = [(name, count) for (of, name), count in self.counts.items() if of == part]
            parts += [f"## {part.capitalize()}\n\n{_table('kind', rows)}"]
        return "\n".join(parts)

    def _total(self, part: str) -> Counter[str]:
        return sum((count for (of, _), count in self.counts.items() if of == part), Counter())


def _table(corner: str, rows: Iterable[tuple[str, Counter[str]]]) -> str:
    """Outcomes that are as they should be have a column each, the others one together."""
    lines = [f"| {corner} | cases | {' | '.join(GOOD)} | faults |", "|---" + "|--:" * (2 + len(GOOD)) + "|"]
    for name, count in rows:
        good = [count[outcome] for outcome in GOOD]
        cells = (name, count.total(), *good, count.total() - sum(good))
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def write_pages(table: Table, seed: int) -> None:
    """Put the tables in their places on both pages."""
    for file, text in ((PAGE, table.overview(seed)), (DETAILS, table.details(seed))):
        page = file.read_text(encoding="utf-8")
        start, end = page.index(BEGIN) + len(BEGIN), page.index(END)
        file.write_text(page[:start] + "\n" + text + "\n" + page[end:], encoding="utf-8")


def rows_of_page() -> dict[str, list[str]]:
    """The kinds in the tables of the page with details, by part."""
    blocks = re.findall(r"^## (.*?)\n\n((?:\|.*\n)+)", DETAILS.read_text(encoding="utf-8"), re.M)
    rows = {title.lower(): re.findall(r"^\| (.*?) \|", block, re.M) for title, block in blocks}
    return {part: names[1:] for part, names in rows.items()}  # the first row has the titles of the columns
