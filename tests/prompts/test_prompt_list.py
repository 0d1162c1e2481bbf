"""Prompts from a list and a CSV file: safe names, and errors that name what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from memkit.errors import InputError
from memkit.prompts import read_prompts, usable_prompts


def test_names_are_safe_and_the_same_each_time(tmp_path) -> None:
    texts = ["../../etc/passwd", "a" * 500, "ein Bär läuft", "...", "A b", "A  b"]
    names = [prompt.name for prompt in read_prompts(texts, None)]
    assert names == [prompt.name for prompt in read_prompts(texts, None)]
    assert len(set(names)) == len(texts)
    assert all(name == Path(name).name and len(name) < 100 and not name.startswith(".") for name in names)
    assert len(read_prompts(["a", "a"], None)) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name\nx\n", "caption"),
        ("caption\n", "no row"),
        ("video,caption\na.mp4,x\na.mp4,y\n", "named"),
        ("caption\n \n", "blank"),
    ],
)
def test_a_bad_prompt_file_is_named(tmp_path, content: str, message: str) -> None:
    (tmp_path / "p.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        read_prompts([], tmp_path / "p.csv")


@pytest.mark.parametrize(
    "videos",
    [("落球.mp4", "弹球.mp4"), ("мяч.mp4", "куб.mp4"), ("x/1.mp4", "y/1.mp4"), ("c+.mp4", "c#.mp4"), ("a.mp4", "A.mp4")]
    + [("a" * 85 + "1.mp4", "a" * 85 + "2.mp4"), ("a.mp4", "a.mov"), ("caf\u00e9.mp4", "cafe\u0301.mp4")],
)
def test_distinct_videos_have_distinct_names(tmp_path, videos: tuple[str, str]) -> None:
    file = tmp_path / "p.csv"
    file.write_text("video,caption\n" + "".join(f"{video},the same ball\n" for video in videos), encoding="utf-8")
    found = read_prompts(["the same ball"], file)
    assert len({prompt.name.lower() for prompt in found}) == 3
    assert [prompt.own for prompt in found] == [[], *([video, Path(video).stem] for video in videos)]


def test_names_of_simple_videos_and_of_texts_stay(tmp_path) -> None:
    (tmp_path / "p.csv").write_text("video,caption\nclips/ball_01.mp4,a ball\n")
    found = read_prompts(["A red ball, falling"], tmp_path / "p.csv")
    assert [prompt.name for prompt in found] == ["A-red-ball-falling-e7b84cfb", "ball_01"]


def test_bad_rows_are_listed_with_their_lines_and_the_others_kept(tmp_path) -> None:
    file = tmp_path / "p.csv"
    rows = [
        "a.mp4,one",
        "b.mp4, ",
        'c.mp4,"a \\"red\\" ball, falls"',
        "d.mp4,a ball, falling",
        "a.mp4,other",
        "e.mp4,two",
    ]
    file.write_text("\n".join(["video,caption", *rows, 'f.mp4,"not closed']))
    found, bad = usable_prompts(["three", " "], file)
    assert [(prompt.name, prompt.text) for prompt in found[1:]] == [("a", "one"), ("e", "two")]
    assert [item.name for item in bad] == ["prompt 2", *(f"{file}, line {line}" for line in (3, 4, 5, 6, 8))]
    with pytest.raises(InputError, match=r"6 prompts cannot be used.*prompt 2.*line 3.*blank.*line 5.*commas.*line 8"):
        read_prompts(["three", " "], file)
