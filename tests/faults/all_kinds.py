"""All kinds of files."""

from tests.faults import (
    bank_kinds,
    model_kinds,
    part_kinds,
    run_kinds,
    session_kinds,
    table_kinds,
    video_kinds,
)

ROOMS = (bank_kinds, session_kinds, part_kinds, run_kinds, table_kinds, video_kinds, model_kinds)
KINDS = tuple(kind for room in ROOMS for kind in room.KINDS)
