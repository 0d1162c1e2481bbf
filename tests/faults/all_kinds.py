"""All kinds of files and all writers."""

from tests.faults import bank_kinds, part_kinds, run_kinds, session_kinds, table_kinds

KINDS = (*bank_kinds.KINDS, *session_kinds.KINDS, *part_kinds.KINDS, *run_kinds.KINDS, *table_kinds.KINDS)
