"""Results of probes on disk, and as a table: one row per mechanism, best first."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from memkit.errors import FileError
from memkit.files.atomic import writing
from memkit.files.json_files import read_json, write_json
from memkit.probes.run import ProbeResult


def write_results(file: Path, results: Sequence[ProbeResult]) -> None:
    """Write results as ``{"rows": [...]}``, with a checksum. Raises `FileError` where it cannot be written."""
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {"rows": [asdict(result) for result in results]})


def read_results(file: Path) -> list[ProbeResult]:
    """The results that `write_results` wrote.

    Raises:
        FileError: the file is missing or damaged, or holds something else.
    """
    remedy = "give a file that memkit probe or the leaderboard has written"
    rows = read_json(file, remedy).get("rows")
    known = {field.name for field in fields(ProbeResult)}
    if not isinstance(rows, list) or not all(isinstance(row, dict) and row.keys() == known for row in rows):
        raise FileError(f"{file} holds no results of probes; {remedy}.")
    return [ProbeResult(**row) for row in rows]


def result_line(row: ProbeResult) -> str:
    """A row in words, with its controls."""
    return (
        f"{row.probe}, seed {row.seed}: accuracy {row.accuracy:.2f} ({row.low:.2f} to {row.high:.2f}), chance "
        f"{row.chance:.2f}, without the past {row.control_accuracy:.2f}, with that of another sample "
        f"{row.wrong_accuracy:.2f}"
    )


def other_settings(results: Sequence[ProbeResult], others: Sequence[ProbeResult]) -> dict[str, str]:
    """By probe, the settings of ``others`` that differ from those of the results: such rows are not comparable."""
    found = {}
    for result in results:
        for row in (row for row in others if row.probe == result.probe and row.settings != result.settings):
            names = sorted({**row.settings, **result.settings})
            pairs = [(name, row.settings.get(name), result.settings.get(name)) for name in names]
            found[row.probe] = ", ".join(f"{name} {a} instead of {b}" for name, a, b in pairs if a != b)
    return found


def probe_table(results: Sequence[ProbeResult], marked: str | None = None) -> str:
    """A table of accuracies: one row per mechanism, one column per probe, means over the seeds.

    Mechanisms are in the order of their mean distance from chance, as a share of what is possible,
    (accuracy − chance) / (1 − chance); those with fewer probes come last. ``marked`` gets an arrow.
    """
    cells: dict[str, dict[str, list[ProbeResult]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        cells[result.mechanism][result.probe].append(result)
    probes = list(dict.fromkeys(result.probe for result in results))
    chance = {result.probe: result.chance for result in results}
    lines = [["", *probes, "above chance", "bytes held", "ms per chunk"]]
    rows = []
    for name, of_probe in cells.items():
        accuracy = {probe: _mean(of_probe[probe], "accuracy") for probe in probes if probe in of_probe}
        above = statistics.fmean((accuracy[probe] - chance[probe]) / (1 - chance[probe]) for probe in accuracy)
        every = [result for probe in of_probe for result in of_probe[probe]]
        shown = [f"{accuracy[probe]:.2f}" if probe in accuracy else "–" for probe in probes]
        cost = [f"{_mean(every, 'bytes'):,.0f}", f"{1000 * _mean(every, 'seconds'):.1f}"]
        rows.append((len(accuracy), above, [("→ " if name == marked else "") + name, *shown, f"{above:.2f}", *cost]))
    lines += [row for *_, row in sorted(rows, key=lambda row: row[:2], reverse=True)]
    lines.append(["chance", *(f"{chance[probe]:.2f}" for probe in probes), "0.00", "", ""])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _mean(results: Sequence[ProbeResult], field: str) -> float:
    return statistics.fmean(getattr(result, field) for result in results)
