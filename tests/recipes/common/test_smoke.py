"""``--smoke``: the four commands of each recipe run at the smallest sizes, in a folder of their own."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from memkit.errors import InputError
from memkit.training import run_all
from memkit.training.smoke import NOTICE
from recipes.dit_mem import __main__ as dit_mem
from recipes.memlearner import __main__ as memlearner
from recipes.remind import __main__ as remind

RECIPES = {"dit_mem": dit_mem, "memlearner": memlearner, "remind": remind}
EACH = pytest.mark.parametrize("name", RECIPES)
LEFT = {"dit_mem": "knowledge.json", "memlearner": "evaluation.json", "remind": "evaluation.json"}


@EACH
def test_the_commands_of_a_recipe_run(name, random_folder, tmp_path, capsys) -> None:
    recipe = RECIPES[name]
    flags = ["--smoke", "--model", str(random_folder), "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert run_all(recipe.parse, recipe.STAGES, [*flags, "--text-length", "160"]) == 0
    told = capsys.readouterr().out
    assert told.count(NOTICE) == 5 and told.strip().endswith("Its numbers mean nothing.")
    stages = [f"== python -m recipes.{name}.{stage} " for stage in ("prepare", "train", "generate", "evaluate")]
    assert [told.index(stage) for stage in stages] == sorted(told.index(stage) for stage in stages)
    assert (tmp_path / "run" / LEFT[name]).exists() and list((tmp_path / "run").rglob("*.mp4"))


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
