"""All kinds of files."""

from tests.faults import (
    bank_kinds,
    memory_kinds,
    model_kinds,
    part_kinds,
    run_kinds,
    session_kinds,
    table_kinds,
    video_kinds,
)

OWN = tuple(
    k for room in (bank_kinds, session_kinds, memory_kinds, part_kinds, run_kinds, table_kinds) for k in room.KINDS
)
"""Files that memkit writes, and those that people write for it."""
KINDS = (*OWN, *video_kinds.KINDS, *model_kinds.KINDS)
