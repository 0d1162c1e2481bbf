"""The two faults of a container, as the end of a sentence that begins with the name of the file."""

from __future__ import annotations

TRUNCATED = "is truncated; copy or download it again"


def damaged(at: int) -> str:
    """Damage at a byte of the file."""
    return f"is damaged at byte {at}; copy or download it again"
