"""docs/compatibility.md says what the matrix is declared with."""

from tests.compat.page import PAGE, page_with, tables


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page_with(tables()), "run: python -m tests.compat.page"
