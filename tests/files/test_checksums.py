"""A file that states its checksum is used only as it was written; `SHA256SUMS` covers the files of a folder."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memkit.errors import FileError
from memkit.files.checksums import UNSET, set_checksum, verify_checksum, verify_sums, write_sums
from memkit.files.json_files import append_row, read_json, read_log, read_rows, write_json, write_rows
from memkit.files.tensors import FileKind, open_tensors, save_tensors

BAD_JSON = ["[" * 100_000, '{"a": NaN}', '{"a": 1e999}', '{"a": ' + "9" * 5000 + "}", "[1]", "\xff"]
KIND = FileKind("saved thing", "memkit-thing", 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checksums")


def _load_tensors(path: Path):
    with open_tensors(path, KIND, "thing") as (header, file):
        return header["n"], file.get_tensor("x").tolist()


def _write(path: Path, kind: str) -> None:
    if kind == "json":
        write_json(path, {"name": "Löwe", "x": [1.5, None]})
    elif kind == "rows":
        write_rows(path, [{"id": "a", "x": 0.25}, {"id": "b", "x": 2}])
    else:
        save_tensors(path, KIND, "thing", {"n": 3}, {"x": torch.arange(6.0)})


LOADERS = {
    "json": lambda path: read_json(path, "write it again"),
    "rows": lambda path: read_rows(path, "write it again"),
    "tensors": _load_tensors,
}


@pytest.mark.parametrize("kind", LOADERS)
@given(data=st.data())
def test_a_changed_bit_never_changes_what_is_read(folder: Path, kind: str, data: st.DataObject) -> None:
    path = folder / kind
    _write(path, kind)
    sound, whole = LOADERS[kind](path), path.read_bytes()
    assert verify_checksum(path)
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    damaged = bytearray(whole)
    damaged[bit // 8] ^= 1 << bit % 8
    path.write_bytes(damaged)
    try:
        assert LOADERS[kind](path) == sound  # only the place of the checksum itself may be unreadable
    except FileError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize("kind", LOADERS)
def test_a_file_cut_anywhere_is_refused(folder: Path, kind: str) -> None:
    path = folder / kind
    _write(path, kind)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(FileError, match="write it again|save it again"):
            LOADERS[kind](path)


def test_content_that_looks_like_a_checksum_is_not_taken_for_one(folder: Path) -> None:
    path = folder / "prompts.json"
    write_json(path, content := {"prompt": UNSET, "another": UNSET})
    assert read_json(path, "write it again") == content


def test_a_file_without_a_checksum_is_read(folder: Path) -> None:
    path = folder / "by-hand.json"
    path.write_text('{"a": 1}')
    assert not verify_checksum(path)
    assert read_json(path, "write it again") == {"a": 1}


def test_large_files_are_compared_in_parts(folder: Path) -> None:
    path = folder / "large"
    path.write_bytes(UNSET.encode() + b"x" * (9 << 20))
    set_checksum(path)
    assert verify_checksum(path)
    with path.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"y")
    with pytest.raises(FileError, match="does not match its checksum"):
        verify_checksum(path)


@pytest.mark.parametrize("text", BAD_JSON)
def test_json_that_cannot_be_used_is_a_typed_error(folder: Path, text: str) -> None:
    path = folder / "bad.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(FileError, match=r"bad\.json.*; write it again\."):
        read_json(path, "write it again")


def test_rows_end_at_the_last_whole_line(folder: Path) -> None:
    path = folder / "log.jsonl"
    for step in range(3):
        append_row(path, {"step": step})
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        assert read_log(path, "remove it") == [{"step": i} for i in range(whole[:length].count(b"\n"))]


def test_a_damaged_row_is_named(folder: Path) -> None:
    path = folder / "log2.jsonl"
    for step in range(3):
        append_row(path, {"step": step, "loss": 0.5})
    path.write_bytes(path.read_bytes().replace(b'"step": 1, "loss": 0.5', b'"step": 1, "loss": 0.7'))
    with pytest.raises(FileError, match=r"Line 2 of .*log2\.jsonl is damaged: its content does not match"):
        read_log(path, "remove it")


def test_rows_are_plain_json_lines(folder: Path) -> None:
    path = folder / "plain.jsonl"
    append_row(path, {"a": "ä"})
    append_row(path, {})
    assert [json.loads(line) for line in path.read_text("utf-8").splitlines()][0]["a"] == "ä"
    assert read_log(path, "remove it") == [{"a": "ä"}, {}]


def test_sums_cover_a_folder_as_sha256sum_does(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "sub/b c.bin").write_bytes(b"two")
    verify_sums(tmp_path)  # without a list there is nothing to compare
    write_sums(tmp_path)
    verify_sums(tmp_path)
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path, check=True, capture_output=True)
    listed = (tmp_path / "SHA256SUMS").read_text()
    for lines in range(listed.count("\n")):
        (tmp_path / "SHA256SUMS").write_text("".join(listed.splitlines(keepends=True)[:lines]))
        with pytest.raises(FileError, match="SHA256SUMS is (damaged|empty)"):
            verify_sums(tmp_path)
    (tmp_path / "SHA256SUMS").write_text(listed.partition("\n")[2])  # a list that sha256sum wrote
    (tmp_path / "sub/b c.bin").write_bytes(b"twp")
    with pytest.raises(FileError, match="b c.bin does not match its checksum"):
        verify_sums(tmp_path)
    (tmp_path / "sub/b c.bin").unlink()
    with pytest.raises(FileError, match="restore the folder"):
        verify_sums(tmp_path)
