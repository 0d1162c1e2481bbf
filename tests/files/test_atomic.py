"""`atomic_write`: what had the name before has it until the new file is whole."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from memkit.errors import FileError
from memkit.files.atomic import atomic_write


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
        "import os, sys; from memkit.files.atomic import atomic_write\n"
        "with atomic_write(sys.argv[1]) as partial: partial.write_bytes(b'af'); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(file)], check=False).returncode == 9
    assert file.read_bytes() == b"before"
    with atomic_write(file) as partial:  # what the killed one left is no hindrance
        partial.write_bytes(b"after")
    assert file.read_bytes() == b"after"
    assert list(tmp_path.iterdir()) == [file]


def test_two_that_write_one_file_at_a_time_leave_a_whole_one(tmp_path) -> None:
    file = tmp_path / "a.bin"
    with atomic_write(file) as first:
        first.write_bytes(b"first, and longer")
        with atomic_write(file) as second:
            assert second != first
            second.write_bytes(b"second")
        assert file.read_bytes() == b"second" and first.read_bytes() == b"first, and longer"
    assert file.read_bytes() == b"first, and longer"
    assert list(tmp_path.iterdir()) == [file]


def test_another_process_that_writes_the_same_file_is_left_alone(tmp_path) -> None:
    file = tmp_path / "a.bin"
    code = (
        "import sys; from memkit.files.atomic import atomic_write\n"
        "with atomic_write(sys.argv[1]) as partial:\n"
        "    partial.write_bytes(b'other'); print('ready', flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "ready\n"
        with atomic_write(file) as partial:
            partial.write_bytes(b"ours")
        assert file.read_bytes() == b"ours" and len(list(tmp_path.iterdir())) == 2
        other.communicate("\n")
    assert other.returncode == 0 and file.read_bytes() == b"other"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_file_has_the_permissions_that_the_user_wants(tmp_path, mask, mode) -> None:
    before = os.umask(mask)
    try:
        with atomic_write(tmp_path / "a.bin") as partial:
            partial.write_bytes(b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "a.bin").stat().st_mode & 0o777 == mode


def test_long_names_are_no_hindrance(tmp_path) -> None:
    file = tmp_path / ("ä" * 127)  # 254 bytes of the 255 that a name may have
    with atomic_write(file) as partial:
        partial.write_bytes(b"x")
    assert file.read_bytes() == b"x"


@pytest.mark.parametrize("place", ["nowhere/a.bin", "file/a.bin"])
def test_a_place_that_cannot_be_written(tmp_path, place) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="a.bin"), atomic_write(tmp_path / place) as partial:
        partial.write_bytes(b"after")


def test_files_get_the_permissions_of_the_user_whoever_writes_them(tmp_path) -> None:
    before = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "a.safetensors") as partial:
            save_file({"x": torch.zeros(2)}, partial)  # which makes files that nobody else may read
        with atomic_write(tmp_path / "b.txt") as partial:
            partial.write_text("b")
    finally:
        os.umask(before)
    assert {oct(file.stat().st_mode & 0o777) for file in tmp_path.iterdir()} == {"0o640"}


def test_a_link_in_the_way_is_not_followed(tmp_path, monkeypatch) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    monkeypatch.setattr("memkit.files.atomic.secrets.token_hex", lambda n: "0" * 2 * n)  # as if it could be guessed
    with atomic_write(tmp_path / "a") as partial:
        name = partial.name
    (tmp_path / name).symlink_to(victim)
    with pytest.raises(FileError, match="Cannot write"), atomic_write(tmp_path / "a") as partial:
        partial.write_text("x")
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("place", ["missing/a", "file/a", "x" * 300])
def test_a_place_that_cannot_be_written_is_a_typed_error(tmp_path, place) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(FileError, match="Cannot write .*; give a place"), atomic_write(tmp_path / place) as partial:
        partial.write_text("x")


def test_a_full_disk_is_a_typed_error_and_leaves_what_was_there(tmp_path) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(b"before")
    with pytest.raises(FileError, match="No space left on device"), atomic_write(file) as partial:
        with open("/dev/full", "wb", buffering=0) as full:
            full.write(b"x")
        partial.write_bytes(b"after")
    assert file.read_bytes() == b"before"
