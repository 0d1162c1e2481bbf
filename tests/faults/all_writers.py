"""All writers."""

from tests.faults import bank_writers, part_writers, run_writers, session_writers

WRITERS = (*bank_writers.WRITERS, *session_writers.WRITERS, *part_writers.WRITERS, *run_writers.WRITERS)
