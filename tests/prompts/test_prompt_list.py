"""Prompts from a list and a CSV file: safe names, and errors that name what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from memkit.errors import InputError
from memkit.prompts import read_prompts


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
