"""The tables of docs/compatibility.md, from what the matrix is declared with.

python -m tests.compat.page    # writes them into the page
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.compat.caches import CACHES
from tests.compat.compiled import ATOL, COMPILED
from tests.compat.declared import Refused
from tests.compat.distributed import PARALLEL
from tests.compat.execution import EXECUTION
from tests.compat.pipelines import PIPELINES
from tests.compat.weights import LORA, OFFLOADING, WEIGHTS
from tests.helpers.attachables import ATTACHABLES, FURTHER, REPRESENTATIVE_ROWS

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
BEGIN, END = "<!-- tables: written by python -m tests.compat.page -->\n", "<!-- end of the tables -->\n"

COLUMNS = {
    "memory_tokens": "`SelfAttentionConcat`",
    "guided_memory": "`GuidedMemory`",
    "kv_cache": "`KVCache`",
    "frame_context": "`FrameContext`",
    "query_layers": "`QueryLayers`",
    "teacher_forcing": "`TeacherForcing`",
    "state_space": "`StateSpaceMemory`",
    "pm_rope": "`PMRoPE`",
    "prope": "`PRoPE`",
}
FURTHER_COLUMNS = {
    "routed_context": "`RoutedContext`",
    "control_branch": "`ControlBranch`",
    "matrix_state": "`DeltaMemory`",
    "echo_memory": "`EchoMemory`",
    "frame_visibility": "`FrameVisibility`",
    "frequency_blend": "`FrequencyBlend`",
    "block_layers": "`BlockLayers`",
    "token_positions": "`TokenPositions`",
    "text_regions": "`TextRegions`",
}
SECTIONS: dict[str, Mapping[str, Any]] = {
    "LoRA and fused projections": LORA,
    "Casting and quantisation": WEIGHTS,
    "Offloading": OFFLOADING,
    "Attention backends, training and autocast": EXECUTION,
    "torch.compile": COMPILED,
    "diffusers' caches": CACHES,
    "Several processes": PARALLEL,
    "Pipelines and guiders": PIPELINES,
}
DEFAULT_ATOL = {"torch.compile": ATOL, "diffusers' caches": 1e-6}
REPRESENTATIVES: dict[str, Mapping[str, Any]] = {
    title: {name: row for name, row in rows.items() if name in (*REPRESENTATIVE_ROWS, "first_block")}
    for title, rows in SECTIONS.items()
}
FURTHER_TITLE = "Further attachments, with one feature of each kind"


def tables() -> str:
    """All sections: a table, then why cells are refused and what to do instead, and notes."""
    assert list(COLUMNS) == list(ATTACHABLES)
    assert list(FURTHER_COLUMNS) == list(FURTHER)
    sections = [_section(title, _table(title, rows, COLUMNS), rows, COLUMNS) for title, rows in SECTIONS.items()]
    lines = [line for title, rows in REPRESENTATIVES.items() for line in _lines(title, rows, FURTHER_COLUMNS)]
    all_rows = {name: row for rows in REPRESENTATIVES.values() for name, row in rows.items()}
    further = "\n".join([_header(FURTHER_COLUMNS), *lines])
    return "\n".join([*sections, _section(FURTHER_TITLE, further, all_rows, FURTHER_COLUMNS)])


def _section(title: str, table: str, rows: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    return "\n\n".join([f"### {title}", table, *_reasons(rows, columns), *_notes(rows.values())]) + "\n"


def _table(title: str, rows: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    return "\n".join([_header(columns), *_lines(title, rows, columns)])


def _header(columns: Mapping[str, str]) -> str:
    return f"| feature | {' | '.join(columns.values())} |\n|---|{'---|' * len(columns)}"


def _lines(title: str, rows: Mapping[str, Any], columns: Mapping[str, str]) -> list[str]:
    default = DEFAULT_ATOL.get(title, 0.0)
    return [f"| {row.title} | {' | '.join(_cells(row, default, columns))} |" for row in rows.values()]


def _cells(row: Any, default: float, columns: Mapping[str, str]) -> list[str]:
    atol = getattr(row, "atol", default)
    works = "exact" if atol == 0 else f"within {atol:g}".replace("e-0", "e-")
    return ["refused" if name in row.refused else works for name in columns]


def _reasons(rows: Mapping[str, Any], columns: Mapping[str, str]) -> list[str]:
    """Each reason once, with the cells that it explains."""
    found: dict[Refused, dict[str, list[str]]] = {}
    for row in rows.values():
        for name, refused in row.refused.items():
            if name in columns:
                found.setdefault(refused, {}).setdefault(name, []).append(row.title)
    return [f"- *Refused: {_which(cells, rows, columns)}.* {refused.why}" for refused, cells in found.items()]


def _which(cells: Mapping[str, list[str]], rows: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    names = "everything" if len(cells) == len(columns) else " and ".join(columns[name] for name in cells)
    titles = next(iter(cells.values()))
    return names if len(titles) == len(rows) else f"{names} with {'; '.join(titles)}"


def _notes(rows: Iterable[Any]) -> list[str]:
    return [f"- *{row.title}.* {row.note}" for row in rows if getattr(row, "note", "")]


def page_with(text: str) -> str:
    """The page with these tables in place of its own."""
    page = PAGE.read_text()
    start, end = page.index(BEGIN) + len(BEGIN), page.index(END)
    return page[:start] + "\n" + text + "\n" + page[end:]


if __name__ == "__main__":
    PAGE.write_text(page_with(tables()))
