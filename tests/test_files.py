"""`atomic_write`: what had the name before has it until the new file is whole."""

from __future__ import annotations

import subprocess
import sys

import pytest

from memkit.files import atomic_write


@pytest.mark.parametrize("before", [None, b"before"])
def test_the_name_changes_hands_at_the_end(tmp_path, before) -> None:
    file = tmp_path / "a.bin"
    if before is not None:
        file.write_bytes(before)
    with atomic_write(str(file)) as partial:
        assert partial.parent == tmp_path
        partial.write_bytes(b"after")
        assert (file.read_bytes() if file.exists() else None) == before
    assert file.read_bytes() == b"after"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("begun", [False, True])
def test_an_error_leaves_what_was_there(tmp_path, begun) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(b"before")
    with pytest.raises(ZeroDivisionError), atomic_write(file) as partial:
        if begun:
            partial.write_bytes(b"af")
        raise ZeroDivisionError
    assert file.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [file]


def test_a_killed_process_leaves_what_was_there(tmp_path) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(b"before")
    code = (
        "import os, sys; from memkit.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as partial: partial.write_bytes(b'af'); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(file)], check=False).returncode == 9
    assert file.read_bytes() == b"before"
    with atomic_write(file) as partial:  # what the killed one left is no hindrance
        partial.write_bytes(b"after")
    assert file.read_bytes() == b"after"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("place", ["nowhere/a.bin", "file/a.bin"])
def test_a_place_that_cannot_be_written(tmp_path, place) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="a.bin"), atomic_write(tmp_path / place) as partial:
        partial.write_bytes(b"after")
