"""File names from texts: distinct for distinct texts, valid on every system, and the same from one list to another."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from memkit.files.names import file_names

RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}
PARTS = st.sampled_from(
    ["a", "A", "é", "e\u0301", "落", "ß", "/", "\\", ".", "-", " ", "con", "NUL", "1", "_", "\0", "+"]
)
TEXTS = st.lists(st.lists(PARTS, max_size=6).map("".join) | st.text(max_size=300), max_size=12, unique=True)


def is_valid_everywhere(name: str) -> bool:
    """As part of a file name with a suffix such as .mp4."""
    return bool(
        re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name)
        and name[-1] not in ".-"
        and name.split(".")[0].lower() not in RESERVED
        and len(name) <= 125
    )


@given(TEXTS, st.data())
@example(["落球", "弹球", "мяч", "куб", "c+", "c#", "x/1", "y/1", "x-1", "a" * 85 + "1", "a" * 85 + "2"], None)
@example([unicodedata.normalize(form, "Bär") for form in ("NFC", "NFD")] + ["BÄR", "bär"], None)
@example(
    ["CON", "con", "nul.txt", "com1.x.y", "lpt9", "", ".", "..", "-rf", ".hidden", "a ", "a.", "\udc80", "\ud800"], None
)
def test_distinct_texts_have_distinct_valid_names(texts: list[str], data: st.DataObject | None) -> None:
    digested = set(texts if data is None else data.draw(st.lists(st.sampled_from(texts or [""]))))
    for names in (
        file_names(texts),
        file_names(texts, digested=digested),
        file_names(texts, {t: t[:2] for t in texts}),
    ):
        assert list(names) == texts and all(is_valid_everywhere(name) for name in names.values())
        assert len({name.casefold() for name in names.values()}) == len(texts)


@given(TEXTS)
def test_a_text_has_the_same_name_in_another_list_unless_case_alone_tells_names_apart(texts: list[str]) -> None:
    together = file_names(texts)
    assert file_names(texts[::-1]) == together
    alone = {text: file_names([text])[text] for text in texts}
    for text in texts:
        if sum(alone[text].lower() == name.lower() for name in alone.values()) == 1 or alone[text] == text.lower():
            assert together[text] == alone[text]


def test_texts_that_are_names_of_others_give_way() -> None:
    """Names with 8 and 16 digits are taken already."""
    taken = [file_names(["落"])["落"]]
    taken.append(file_names([taken[0], "落"])["落"])
    names = file_names([*taken, "落"])
    assert taken[0] in names and [names[text] for text in taken] == taken
    assert len(names["落"]) == len("video-") + 64


def test_simple_names_stay_and_others_stay_readable() -> None:
    names = file_names(["ball-2_b.x", "Ball", "a red ball", "x/1.mp4"], {"x/1.mp4": "1"})
    assert list(names.values())[:2] == ["ball-2_b.x", "Ball"] and names["x/1.mp4"] == "1"
    assert re.fullmatch("a-red-ball-[0-9a-f]{8}", names["a red ball"])
    assert re.fullmatch("ball-[0-9a-f]{8}", file_names(["ball"], digested=["ball"])["ball"])


def test_files_with_these_names_can_be_made(tmp_path: Path) -> None:
    texts = ["a" * 5000, "落" * 300, "../../etc/passwd", "\0", "..", "c:\\x", "?*<>|\"'"]
    for name in file_names(texts).values():
        (tmp_path / f"{name}.mp4").touch()
    assert len(list(tmp_path.iterdir())) == len(texts)
