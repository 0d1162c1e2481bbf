"""Videos of augmented prompts have the original names, on disk too, whatever the prompts are."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memkit.errors import InputError
from memkit.prompts import plan_vbench, read_augmented, read_vbench

LINE = st.text(min_size=1, max_size=40).map(lambda text: " ".join(re.split("[\r\n]", text)).strip()).filter(bool)


def save(folder: Path, name: str, lines: list[str]) -> Path:
    file = folder / name
    file.write_bytes(("\n".join(lines) + "\n").encode())
    return file


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(LINE, LINE), min_size=1, max_size=6), st.integers(1, 3))
def test_the_scorers_rule_finds_every_video_on_disk(pairs: list[tuple[str, str]], each: int) -> None:
    """Its rule: exactly ``{prompt}-{i}.mp4`` for i from 0, letter by letter."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        original = save(folder, "all_dimension.txt", [prompt for prompt, _ in pairs])
        longer = save(folder, "longer.txt", [text for _, text in pairs])
        bad = [p for p, _ in pairs if "/" in p or "\0" in p or len(p.encode()) > 236]
        if bad:
            with pytest.raises(InputError, match="line"):
                read_vbench(original)
            return
        texts = read_augmented(original, longer)
        planned = plan_vbench(read_vbench(original), 5, each, texts)
        (videos := folder / "videos").mkdir()
        for video in planned:
            assert not (videos / video.file).exists()
            (videos / video.file).write_text(video.prompt)
        assert len(os.listdir(videos)) == len({prompt for prompt, _ in pairs}) * each
        first = dict(reversed(pairs))
        for prompt, _ in pairs:
            for i in range(each):
                assert f"{prompt}-{i}.mp4" in os.listdir(videos)
                assert (videos / f"{prompt}-{i}.mp4").read_text() == first[prompt]


def test_files_of_other_lengths_are_refused(tmp_path):
    original = save(tmp_path, "a.txt", ["une crêpe", "a cat", "une crêpe"])
    assert read_augmented(original, save(tmp_path, "b.txt", ["A", "B", "C"])) == {"une crêpe": "A", "a cat": "B"}
    with pytest.raises(InputError, match="3 lines and .* 2"):
        read_augmented(original, save(tmp_path, "b.txt", ["A", "B"]))
    with pytest.raises(InputError, match="Line 2 is blank in only one"):
        read_augmented(original, save(tmp_path, "b.txt", ["A", " ", "C"]))
    with pytest.raises(InputError, match="is no file"):
        read_augmented(tmp_path, original)
