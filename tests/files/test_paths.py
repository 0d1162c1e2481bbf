"""Names that were read from files do not lead out of their folders."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkit.errors import FileError
from memkit.files.checksums import SUMS_FILE, verify_sums
from memkit.files.paths import inside
from memkit.retrievers.text_models import model_file
from tests.helpers.type_checks import unchecked

OUT = ["../a", "a/../../b", "..", "/etc/passwd", "\\\\host\\a", "..\\a", "c:\\a", "c:a", "a\0b", "", "a/..", "//a"]


@pytest.mark.parametrize("name", [*OUT, None, 3, ["a"]])
def test_a_name_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileError, match="must not lead out of it; write it again"):
        unchecked(inside)(tmp_path, name, "write it again")


@given(st.lists(st.sampled_from(["a", "..", ".", "/", "\\", "b.c", "c:", " "]), max_size=6).map("".join))
def test_what_is_accepted_is_inside(name: str) -> None:
    try:
        path = inside("/folder", name, "x")
    except FileError:
        return
    assert path.resolve().is_relative_to("/folder")


def test_a_link_of_the_owner_is_followed(tmp_path: Path) -> None:
    (tmp_path / "out.txt").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link.txt").symlink_to(tmp_path / "out.txt")
    assert inside(tmp_path / "folder", "link.txt", "x").read_text() == "x"


@pytest.mark.parametrize("name", ["../a.json", "/dev/zero"])
def test_lists_of_checksums_and_of_modules_stay_in_their_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.json").write_text("{}")
    (folder := tmp_path / "folder").mkdir()
    (folder / SUMS_FILE).write_text(f"{'0' * 64}  {name}\n")
    with pytest.raises(FileError, match="must not lead out"):
        verify_sums(folder)
    with pytest.raises(FileError, match="must not lead out"):
        model_file(str(folder), name)
