"""Text for a terminal."""


def one_line(text: str) -> str:
    """``text`` without line breaks, tabs and repeated spaces."""
    return " ".join(text.split())


def bytes_text(count: int) -> str:
    """A number of bytes in the largest unit of which there is one, such as "287.5 MB"."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count} B"
