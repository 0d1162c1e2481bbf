"""`Evidence`: a claim of a paper, and where it was tested."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """What a recipe measured of a claim on tiny-wan."""

    verdict: str
    figure: str
    """In words; what stands in it between ‹ and › is quoted from the page."""
    page: str
    """The page, with the anchor of a section."""
    command: str


@dataclass(frozen=True)
class Evidence:
    """A claim of a paper, and where it was tested."""

    claim: str
    tiny_wan: Finding | None = None
    probes: tuple[str, ...] = ()
    """Texts of the leaderboard's claims that test it."""
    note: str = ""
