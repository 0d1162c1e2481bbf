"""What the recipes' commands share: help that fits the command, settings that all accept, and a report at the end."""

from __future__ import annotations

import dataclasses
import re

import pytest

from memkit.training import report_done
from recipes.dit_mem import generate as dit_mem_generate
from recipes.dit_mem import presets as dit_mem
from recipes.memlearner import generate as memlearner_generate
from recipes.memlearner import presets as memlearner
from recipes.remind import generate, prepare, train
from recipes.remind import presets as remind

GENERATE = [
    (remind, generate.Generate),
    (memlearner, memlearner_generate.Generate),
    (dit_mem, dit_mem_generate.Generate),
]


def flags(presets, command, capsys, help: str = "--help-all") -> set[str]:
    """The flags that ``--help-all`` lists, or ``--help``."""
    with pytest.raises(SystemExit) as ended:
        presets.parse(command, "What it does.", ["--preset", "wan2.1-1.3b", help])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: python -m {command.__module__} ") and "What it does." in text
    assert "now those of wan2.1-1.3b" in text
    return set(re.findall(r"^[^\w-]*(--[a-z-]+)", text, re.M))


@pytest.mark.parametrize(("presets", "command"), GENERATE)
def test_help_of_generate_shows_sampling_and_not_training(presets, command, capsys) -> None:
    shown = flags(presets, command, capsys)
    assert {"--sampling-steps", "--guidance-scale", "--model", "--out", "--seed"} <= shown
    assert not shown & {"--steps", "--lr", "--batch", "--shard", "--tracker", "--save-every", "--train-clips"}


def test_help_of_train_and_prepare_shows_their_own(capsys) -> None:
    shown = flags(remind, train.Train, capsys)
    assert {"--lr", "--gradient-accumulation-steps", "--undisturbed-prob", "--frames"} <= shown
    assert not shown & {"--sampling-steps", "--train-clips", "--image"}
    shown = flags(remind, prepare.Prepare, capsys)
    assert {"--train-clips", "--videos", "--frames"} <= shown and not shown & {"--lr", "--sampling-steps"}


@pytest.mark.parametrize(("presets", "command"), [*GENERATE, (remind, train.Train), (remind, prepare.Prepare)])
def test_the_first_help_fits_a_screen(presets, command, capsys) -> None:
    usual = flags(presets, command, capsys, "--help")
    assert {"--model", "--out", "--seed"} <= usual < flags(presets, command, capsys) | {"--help"}
    with pytest.raises(SystemExit):
        presets.parse(command, None, ["--help"])
    text = capsys.readouterr().out
    assert len(text.splitlines()) < 70 and "--help-all lists all of them" in text


@pytest.mark.parametrize(("presets", "command"), GENERATE)
def test_a_command_accepts_the_settings_that_it_does_not_show(presets, command) -> None:
    told = presets.parse(command, None, ["--lr", "0.5", "--gradient-accumulation-steps", "4"])
    assert told.config == dataclasses.replace(presets.tiny(), lr=0.5, gradient_accumulation_steps=4)


def test_one_process_of_a_launch_reports(tmp_path, capsys, monkeypatch) -> None:
    report_done(tmp_path, "python -m recipes.remind.train")
    assert capsys.readouterr().out == f"Results are in {tmp_path}.\nNext: python -m recipes.remind.train\n"
    monkeypatch.setenv("RANK", "1")
    report_done(tmp_path)
    assert not capsys.readouterr().out
