"""Text for a terminal."""


def one_line(text: str) -> str:
    """``text`` without line breaks, tabs and repeated spaces."""
    return " ".join(text.split())
