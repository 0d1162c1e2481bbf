"""Whatever bytes a file of prompts, captions or tasks has, it is read, or refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memkit.banks import read_captions
from memkit.errors import InputError
from memkit.prompts import plan_phygenbench, read_phygenbench, read_vbench, usable_prompts
from memkit.prompts.stevo import read_tasks

PIECES = [
    b"video,caption\n",
    b"video",
    b"caption",
    b",",
    b"\n",
    b"\r\n",
    b"\r",
    b'"',
    b'""',
    b"a.mp4",
    b"\0",
    b"\xff",
    b";",
    b"id",
    b"\xef\xbb\xbf",
    b"../x",
    b"\\",
    b"x" * 140_000,
    b"/" * 300,
    b"y" * 5000,
    "é\u2028".encode(),
    b"\x1a",
    b"source",
]
YAML = [
    b"prompts:",
    b" video_WM:",
    b" a",
    b"\n",
    b"{",
    b"}",
    b"[",
    b"]",
    b": ",
    b"- ",
    b"&a ",
    b"*a",
    b"<<: *a",
    b"id: ",
    b"!!python/object/apply:os.system [x]",
    b"camera_control",
    b"1e999",
    b"2020-99-99",
    b".nan",
    b"\t",
    b"? ",
    b"!!int x",
    b"!!binary x",
    b"!!timestamp x",
    b"[[{a: b}]: c]",
    b"---\n",
    b"|\n",
    b"%YAML 9\n",
    b"prompts: {video_WM: a}\n",
    b"\xff",
]
many = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def bytes_of(pieces: list[bytes]) -> st.SearchStrategy[bytes]:
    return st.lists(st.sampled_from(pieces), max_size=14).map(b"".join) | st.binary(max_size=100)


@many
@given(st.sampled_from([b"", b"video,caption\n", b"\xef\xbb\xbfvideo,caption,id,source\r\n"]), bytes_of(PIECES))
def test_tables(tmp_path: Path, head: bytes, content: bytes) -> None:
    file = tmp_path / "c.csv"
    file.write_bytes(head + content)
    (tmp_path / "a.mp4").touch()
    for read in (lambda: read_captions(file, tmp_path), lambda: usable_prompts([], file)):
        try:
            good, bad = read()
        except InputError as error:
            assert "c.csv" in str(error) and len(str(error)) < 2000
        else:
            assert good or bad or read_captions(file, tmp_path) == ([], [])
            assert all(item.line >= 2 and item.reason for item in bad)


@many
@given(bytes_of(YAML))
def test_tasks_and_prompts(tmp_path: Path, content: bytes) -> None:
    for name in ("t.yaml", "t.txt", "t.json", "t_init_frame.png"):
        (tmp_path / name).write_bytes(content)
    for read, file in ((read_tasks, tmp_path), (read_phygenbench, tmp_path / "t.json"), (read_vbench, tmp_path)):
        try:
            read(file)
        except InputError as error:
            assert str(tmp_path) in str(error)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("video;caption\na.mp4;x\n", "caption in its first line; it has video;caption"),
        (",".join(f"c{i}" for i in range(100_000)), "needs the columns video and caption"),
        ("video,caption,caption\n", "the column caption twice"),
        ("video,caption,Video\n", "the column video twice"),
        ("video,Video_Path,caption\n", "the column video twice"),
        ('"video,caption\n', "no usable first line"),
    ],
)
def test_headers_that_cannot_be_used(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "c.csv").write_text(content)
    with pytest.raises(InputError, match=told) as caught:
        read_captions(tmp_path / "c.csv", tmp_path)
    assert len(str(caught.value)) < 1000


def test_tables_in_other_encodings_are_refused(tmp_path: Path) -> None:
    for encoding in ("utf-16", "utf-16-le", "utf-32"):
        (tmp_path / "c.csv").write_bytes("video,caption\na.mp4,Bälle\n".encode(encoding))
        with pytest.raises(InputError, match=r"c\.csv"):
            read_captions(tmp_path / "c.csv", tmp_path)


def test_one_bad_row_leaves_the_others(tmp_path: Path) -> None:
    """Lines are counted where a row begins, after rows over several lines too."""
    for i in range(4):
        (tmp_path / f"{i}.mp4").touch()
    rows = [
        '0.mp4,"two\nlines"',
        f'1.mp4,"{"x" * 200_000}"',
        "1.mp4,fine",
        "2.mp4,a\0b",
        f"{'n' * 5000}.mp4,x",
        "0.mp4,again",
        "3.mp4,fine",
        "4.mp4,there is none",
        '5.mp4,"open',
    ]
    (tmp_path / "c.csv").write_text("\n".join(["video,caption", *rows]))
    good, bad = read_captions(tmp_path / "c.csv", tmp_path)
    assert [(row.line, row.file.name) for row in good] == [(2, "0.mp4"), (5, "1.mp4"), (9, "3.mp4")]
    assert [item.line for item in bad] == [4, 6, 7, 8, 10, 11]


def test_yaml_that_grows_when_it_is_shown_is_refused_at_once(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30))]
    for field in ("prompts: {video_WM: *a29}", "prompts: *a29", "id: *a29\nprompts: {video_WM: a}"):
        (tmp_path / "t.yaml").write_text("\n".join([*lines, field]))
        with pytest.raises(InputError, match=r"t\.yaml"):
            read_tasks(tmp_path)


@pytest.mark.parametrize(
    "name", ["{n}", "a.mp4", "../{n}.mp4", "{n}\0.mp4", "{n}\\a.mp4", "x" * 300 + "{n}.mp4", "{n}{n}.mp4"]
)
def test_names_that_no_video_of_a_benchmark_can_have(name: str) -> None:
    with pytest.raises(InputError, match="video_name"):
        plan_phygenbench([], 0, name)
