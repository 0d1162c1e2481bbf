"""Evaluation: measured rows that survive interruption, tables with confidence intervals, studies of variants.

Published benchmarks are in `memkit.evaluation.benchmarks`.
"""

from memkit.evaluation.results import ResultStore, check_settings, from_json, read_rows
from memkit.evaluation.study import Study, StudyFlags, parallel_map, run_config
from memkit.evaluation.tables import (
    Cells,
    Measure,
    Run,
    Table,
    compare,
    differences,
    exactly,
    field,
    interval,
    intervals,
    less,
    select,
    table_to_json,
    to_markdown,
    write_tables,
)
from memkit.files.non_finite import to_json

__all__ = [
    "Cells",
    "Measure",
    "ResultStore",
    "Run",
    "Study",
    "StudyFlags",
    "Table",
    "check_settings",
    "compare",
    "differences",
    "exactly",
    "field",
    "from_json",
    "interval",
    "intervals",
    "less",
    "parallel_map",
    "read_rows",
    "run_config",
    "select",
    "table_to_json",
    "to_json",
    "to_markdown",
    "write_tables",
]
