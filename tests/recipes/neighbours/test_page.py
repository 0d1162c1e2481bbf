"""The page and the code say the same, files are short, and the command writes what it says."""

from pathlib import Path

import pytest

from memkit.backbones import VideoFormat, WanBackbone
from recipes.neighbours import __main__ as command
from recipes.neighbours.methods import METHODS
from recipes.neighbours.page import page
from tests.helpers.random_wan import random_pipeline

ROOT = Path(__file__).parents[3]
OWN = {"__init__", "__main__", "methods", "neighbour", "page", "video"}


def test_the_page_is_made_from_the_code():
    assert (ROOT / "docs" / "neighbours.md").read_text() == page(), "run python -m recipes.neighbours page"


def test_every_method_is_a_file_of_at_most_60_lines():
    files = {file.stem: file for file in (ROOT / "recipes" / "neighbours").glob("*.py") if file.stem not in OWN}
    assert files.keys() == {method.__module__.split(".")[-1] for method in METHODS.values()}
    assert len(files) == 15
    assert not [name for name, file in files.items() if len(file.read_text().splitlines()) > 60]


def test_the_command_samples_both_videos_and_says_what_was_not_trained(tmp_path, monkeypatch, capsys):
    tiny = WanBackbone.from_pipeline(random_pipeline(), VideoFormat(9, 32, 32, 8.0))
    monkeypatch.setattr(command.WanBackbone, "tiny", lambda: tiny)
    options = ["--frames", "3", "--steps", "2", "--prompt", "a red ball falls", "--text-length", "16"]
    command.main(["fvdm", "--window", "2", "--kept", "1", "--out", str(tmp_path / "fvdm"), "--device", "cpu", *options])
    assert {file.name for file in (tmp_path / "fvdm").iterdir()} == {"method.mp4", "plain.mp4", "sheet.png"}
    said = capsys.readouterr().out
    assert "FVDM(window=2, kept=1, p=0.2)" in said and "was not trained for it" in said and "differ" in said


@pytest.mark.parametrize("name", METHODS)
def test_settings_that_are_named_as_readings_exist(name):
    about = METHODS[name].about
    named = [part for text in (*about.readings, about.visibility, about.trained) for part in text.split("`")[1::2]]
    assert not [each for each in named if not hasattr(METHODS[name](), each)]
