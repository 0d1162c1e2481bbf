"""``--smoke``: what it replaces. That the commands run is shown by `tests.helpers.smoke_runs` in the recipes' tests."""

from __future__ import annotations

import dataclasses
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from memkit.errors import InputError
from memkit.training import run_all
from recipes.dit_mem import __main__ as dit_mem
from recipes.memlearner import __main__ as memlearner
from recipes.remind import __main__ as remind

RECIPES = {"dit_mem": dit_mem, "memlearner": memlearner, "remind": remind}
EACH = pytest.mark.parametrize("name", RECIPES)


@EACH
def test_smoke_runs_have_folders_of_their_own_and_flags_come_first(name, tmp_path) -> None:
    recipe = RECIPES[name]
    for stage in recipe.STAGES:
        real, small, given = (
            recipe.parse(stage, None, flags) for flags in ([], ["--smoke"], ["--smoke", "--steps", "7"])
        )
        assert small.config.out == Path("runs") / f"smoke-{real.config.out.name}" != real.config.out
        assert small.config.steps == 2 and given.config == dataclasses.replace(small.config, steps=7)
    with pytest.raises(InputError, match="takes --smoke"):
        run_all(recipe.parse, recipe.STAGES, ["--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())


@EACH
@pytest.mark.parametrize(
    "flags",
    [
        "",
        "--smoke",
        "--preset wan2.1-1.3b",
        "--smoke --steps 7 --out elsewhere --banks 'my banks'",
        "--seed 3 --dtype bf16",
    ],
)
def test_the_next_command_has_the_settings_of_this_one(name, flags) -> None:
    recipe = RECIPES[name]
    presets = import_module(f"recipes.{name}.presets")
    train = next(stage for stage in recipe.STAGES if stage.__name__ == "Train")
    config = recipe.parse(train, None, shlex.split(flags)).config
    told = presets.command("train", config)
    assert recipe.parse(train, None, shlex.split(told.partition(f"recipes.{name}.train ")[2])).config == config
    assert len(told.split()) < 15
