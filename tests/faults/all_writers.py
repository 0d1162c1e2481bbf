"""All writers."""

from tests.faults import bank_writers, memory_writers, part_writers, run_writers, session_writers

ROOMS = (bank_writers, session_writers, memory_writers, part_writers, run_writers)
WRITERS = tuple(writer for room in ROOMS for writer in room.WRITERS)
