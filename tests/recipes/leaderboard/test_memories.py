"""The page that helps to choose a memory."""

from pathlib import Path

from memkit.files.json_files import read_json
from memkit.probes import read_results
from recipes.leaderboard.choices import CHOICES
from recipes.leaderboard.memories import page_text, times

DOCS = Path(__file__).parents[3] / "docs"


def test_the_page_is_what_the_rows_and_times_give():
    measured = read_json(DOCS / "memories.json", "")
    assert (DOCS / "memories.md").read_text() == page_text(measured, read_results(DOCS / "leaderboard.json"))


def test_each_mechanism_of_a_choice_is_timed():
    found = times(1)
    assert {choice.mechanism for choice in CHOICES} <= {*found["milliseconds"], None}
    assert found["past"] > 0 and all(each["step"][0] > 0 for each in found["milliseconds"].values())
