"""The tables of outcomes, and their place in docs/reliability.md."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tests.faults.outcomes import MEANINGS, Result
from tests.faults.torture import PARTS, names_of

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
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
        return _table("", [(part, self._total(part)) for part in PARTS])

    def page(self, seed: int) -> str:
        """The summary, and the rows of each part to unfold."""
        parts = [self.summary(), f"These are the numbers of a run with seed {seed}.\n"]
        for part in PARTS:
            rows = [(name, count) for (of, name), count in self.counts.items() if of == part]
            title = f"<details><summary>{part.capitalize()}, by kind</summary>"
            parts += [f"{title}\n\n{_table(part, rows)}\n</details>\n"]
        return "\n".join(parts)

    def _total(self, part: str) -> Counter[str]:
        return sum((count for (of, _), count in self.counts.items() if of == part), Counter())


def _table(corner: str, rows: Iterable[tuple[str, Counter[str]]]) -> str:
    lines = [f"| {corner} | cases | {' | '.join(MEANINGS)} |", "|---" + "|--:" * (1 + len(MEANINGS)) + "|"]
    for name, count in rows:
        lines.append(f"| {name} | {count.total()} | {' | '.join(str(count[o]) for o in MEANINGS)} |")
    return "\n".join(lines) + "\n"


def write_page(text: str) -> None:
    """Put ``text`` in the place of the tables of the page."""
    page = PAGE.read_text(encoding="utf-8")
    start, end = page.index(BEGIN) + len(BEGIN), page.index(END)
    PAGE.write_text(page[:start] + "\n" + text + "\n" + page[end:], encoding="utf-8")


def rows_of_page() -> dict[str, list[str]]:
    """The kinds in the tables of the page, by part."""
    blocks = re.findall(r"<summary>(.*?), by kind</summary>(.*?)</details>", PAGE.read_text(encoding="utf-8"), re.S)
    rows = {title.lower(): re.findall(r"^\| (.*?) \|", block, re.M) for title, block in blocks}
    return {part: names[1:] for part, names in rows.items()}  # the first row has the titles of the columns
