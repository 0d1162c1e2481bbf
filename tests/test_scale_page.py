"""docs/scale.md has the tables that are computed from the sizes of the models now."""

from benchmarks.scale_page import PAGE, page_with, tables


def test_the_tables_are_those_that_are_computed():
    text = tables()
    assert PAGE.read_text(encoding="utf-8") == page_with(text)
    assert "| wan2.1-t2v-14b | 81×720×1280 | 75,600 | 28.6 GB |" in text
