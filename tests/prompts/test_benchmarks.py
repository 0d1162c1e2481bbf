"""PhyGenBench and VBench: prompt files, and the file names that the scorers look for."""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkit.errors import InputError
from memkit.prompts import PhyGenBenchPrompt, plan_phygenbench, plan_vbench, read_phygenbench, read_vbench

CATEGORIES = {"animal": ["a cat-1", "a dog"], "food": ["une crêpe", "a dog"]}
PROMPT = st.text(st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="/"), min_size=1, max_size=20)
PROMPTS = st.dictionaries(st.sampled_from("abcdef"), st.lists(PROMPT, min_size=1, max_size=4), max_size=4)


@pytest.fixture
def vbench(tmp_path: Path) -> Path:
    folder = tmp_path / "prompts"
    folder.mkdir()
    for category, prompts in CATEGORIES.items():
        (folder / f"{category}.txt").write_text("\n".join(prompts) + "\n\n", encoding="utf-8")
    return folder


@given(st.lists(PROMPT, max_size=12), st.integers(0, 2**32), st.integers(0, 12))
def test_phygenbench_numbers_its_prompts_in_order(captions: list[str], seed: int, first: int) -> None:
    entries = [PhyGenBenchPrompt(caption, ("Optics",)) for caption in captions]
    planned = plan_phygenbench(entries, seed)
    assert [video.file for video in planned] == [f"video_output_{n + 1}.mp4" for n in range(len(captions))]
    assert [video.prompt for video in planned] == captions and {video.seed for video in planned} <= {seed}
    assert plan_phygenbench(entries[:first], seed) == planned[:first]
    renamed = plan_phygenbench(entries, seed, "output_video_{n}.mp4")
    assert [video._replace(file="") for video in renamed] == [video._replace(file="") for video in planned]
    assert [video.file for video in renamed] == [f"output_video_{n + 1}.mp4" for n in range(len(captions))]


def _prompt_of(file: str) -> str:
    """As VBench's get_prompt_from_filename has it."""
    return re.sub(r"-\d+$", "", file.removesuffix(".mp4"))


@given(PROMPTS, st.integers(0, 2**32), st.integers(1, 6), st.randoms())
def test_vbench_names_each_video_by_its_prompt_once(
    prompts: dict[str, list[str]], seed: int, each: int, rng: random.Random
) -> None:
    planned = plan_vbench(prompts, seed, each)
    texts = {text for found in prompts.values() for text in found}
    assert Counter(video.file for video in planned) == Counter(f"{text}-{j}.mp4" for text in texts for j in range(each))
    for video in planned:
        assert _prompt_of(video.file) == video.prompt
        assert video.file == f"{video.key}.mp4" == f"{video.prompt}-{video.seed - seed}.mp4"
        assert video.categories == tuple(name for name, found in prompts.items() if video.prompt in found)
    # more videos a prompt, or other files and lines first, change no video
    assert set(planned) <= set(plan_vbench(prompts, seed, each + 1))
    mixed = {name: rng.sample(prompts[name], len(prompts[name])) for name in rng.sample(list(prompts), len(prompts))}
    other = plan_vbench(mixed, seed, each)
    assert {v._replace(categories=()) for v in other} == {v._replace(categories=()) for v in planned}
    assert len(other) == len(planned)


def test_prompt_files_are_read_whatever_their_lines_end_with(tmp_path, vbench) -> None:
    assert read_vbench(vbench) == CATEGORIES
    assert read_vbench(vbench / "food.txt") == {"food": CATEGORIES["food"]}
    odd = tmp_path / "odd.txt"
    odd.write_bytes("\ufeff a cat \r\n\r\na\u2028b\r\n".encode())
    assert read_vbench(odd) == {"odd": ["a cat", "a\u2028b"]}
    long = "x" * 236  # with -999 it is as long as a name may be
    odd.write_text(long)
    (tmp_path / f".{long}-999.json.partial").write_text("")
    assert read_vbench(odd) == {"odd": [long]}


GOOD = '{"caption": "x", "physical_laws": "a", "sub_category": "b", "main_category": "c"}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[", "JSON"),
        (b"\xff", "JSON"),
        (b"{}", "list"),
        (b"[]", "list"),
        (b"[" * 100_000, "JSON"),
        (f"[{GOOD}, 3]".encode(), "entry 2 is no object"),
        (f"[{GOOD}, {GOOD.replace('x', ' ')}]".encode(), "entry 2 has no caption"),
        (f"[{GOOD.replace('caption', 'prompt')}]".encode(), "entry 1 has no caption"),
        (f"[{GOOD}, {GOOD}, {GOOD.replace('sub_', '')}]".encode(), "entry 3 .* has no sub_category"),
        (b"[" + GOOD.replace('"c"', "[]").encode() + b"]", "entry 1 .* has no main_category"),
    ],
)
def test_a_damaged_file_of_phygenbench_is_named_with_its_entry(tmp_path, content: bytes, message: str) -> None:
    file = tmp_path / "prompts.json"
    file.write_bytes(content)
    with pytest.raises(InputError, match=f"prompts.json.*{message}"):
        read_phygenbench(file)
    file.write_text(f"[{GOOD}]")
    assert read_phygenbench(file) == [PhyGenBenchPrompt("x", ("c", "b", "a"))]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"fine\n\na cat and/or a dog\n", r"line 3: 'a cat and/or a dog' has a character"),
        (b"a\0b", "line 1.*character"),
        (b"x" * 237, "line 1.*too long"),
        ("é".encode() * 120, "line 1.*too long"),
        (b"\xff\n", "UTF-8"),
        (b" \n\n", "no prompt"),
    ],
)
def test_a_damaged_file_of_vbench_is_named_with_its_line(vbench, content: bytes, message: str) -> None:
    (vbench / "zoo.txt").write_bytes(content)
    with pytest.raises(InputError, match=f"zoo.txt.*{message}"):
        read_vbench(vbench)
