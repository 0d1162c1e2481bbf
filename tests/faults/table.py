"""The table of outcomes, and its place in docs/reliability.md."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from tests.faults.outcomes import MEANINGS, Result
from tests.faults.torture import PARTS, names_of

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
_PLACE = re.compile(r"(<!-- outcomes: begin[^>]*-->\n).*(<!-- outcomes: end -->)", re.S)


class Table:
    """Numbers of outcomes by part and kind."""

    def __init__(self) -> None:
        self.counts = {(part, name): Counter[str]() for part in PARTS for name in names_of(part)}

    def add(self, part: str, results: list[Result]) -> None:
        for result in results:
            self.counts[part, result.kind][result.outcome] += 1

    def total(self, part: str) -> Counter[str]:
        return sum((count for (of, _), count in self.counts.items() if of == part), Counter())

    def markdown(self) -> str:
        """One table per part; an outcome that never came about in it is a column of zeros all the same."""
        return "\n".join(self._part(part) for part in PARTS if self.total(part).total())

    def _part(self, part: str) -> str:
        rows = [(name, count) for (of, name), count in self.counts.items() if of == part and count.total()]
        rows.append(("**all**", self.total(part)))
        lines = [f"| {part} | cases | {' | '.join(MEANINGS)} |", "|---" + "|--:" * (1 + len(MEANINGS)) + "|"]
        for name, count in rows:
            lines.append(f"| {name} | {count.total()} | {' | '.join(str(count[o] or '') for o in MEANINGS)} |")
        return "\n".join(lines) + "\n"


def write_page(text: str) -> None:
    """Put ``text`` between the marks of the page."""
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(_PLACE.sub(lambda match: match[1] + text + match[2], page), encoding="utf-8")


def rows_of_page() -> dict[str, list[str]]:
    """The names in the first column of each table of the page, by part, without the sum."""
    match = _PLACE.search(PAGE.read_text(encoding="utf-8"))
    assert match, f"{PAGE} has no place for the outcomes"
    found: dict[str, list[str]] = {}
    part = ""
    for line in match[0].splitlines():
        name = line.split("|")[1].strip() if line.startswith("|") else ""
        if name in PARTS:
            part = name
            found[part] = []
        elif name and not name.startswith(("-", "**")):
            found[part].append(name)
    return found
