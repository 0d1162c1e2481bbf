"""The page of evidence quotes the recipes' pages, has every claim of the leaderboard, and follows from its rows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from memkit.probes import read_results
from recipes.leaderboard.claims import CLAIMS
from recipes.leaderboard.evidence import PAPERS, evidence_text

DOCS = Path(__file__).parents[3] / "docs"
FINDINGS = [each.tiny_wan for claims in PAPERS.values() for each in claims if each.tiny_wan is not None]


def plain(text: str) -> str:
    return " ".join(text.replace("**", "").replace("−", "-").split())


@pytest.mark.parametrize("finding", FINDINGS, ids=lambda finding: finding.figure[:30])
def test_what_is_quoted_stands_on_the_page(finding) -> None:
    page = (DOCS / finding.page.partition("#")[0]).read_text(encoding="utf-8")
    quotes = re.findall("‹(.*?)›", finding.figure)
    assert quotes
    for quote in quotes:
        assert plain(quote).removesuffix(" dB") in plain(page), quote
    assert finding.command.partition(" --claim")[0].partition(" --preset")[0] in page


def test_every_claim_on_probes_is_named_once_and_every_claim_says_where_it_was_tested() -> None:
    named = [text for claims in PAPERS.values() for each in claims for text in each.probes]
    assert sorted(named) == sorted(claim.text for claim in CLAIMS)
    for each in (each for claims in PAPERS.values() for each in claims):
        assert bool(each.tiny_wan or each.probes) != bool(each.note)


def test_the_page_is_that_of_the_rows() -> None:
    rows = read_results(DOCS / "leaderboard.json")
    assert (DOCS / "evidence.md").read_text(encoding="utf-8") == evidence_text(rows)
    assert evidence_text([]).count("not measured yet") == len(CLAIMS)
