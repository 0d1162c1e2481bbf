"""The four commands of a recipe, run with ``--smoke`` as a user would."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

from memkit.training import run_all
from memkit.training.smoke import NOTICE


def smoke_run(recipe: Any, model: Path, out: Path, *flags: str) -> Any:
    """The settings of a finished smoke run in ``out``; ``recipe`` is the module ``__main__`` of a recipe."""
    given = ["--smoke", "--model", str(model), "--out", str(out), "--device", "cpu", "--text-length", "160", *flags]
    with contextlib.redirect_stdout(io.StringIO()) as text:
        assert run_all(recipe.parse, recipe.STAGES, given) == 0
    told = text.getvalue()
    stages = [told.index(f"== python -m {stage.__module__} ") for stage in recipe.STAGES]
    assert len(stages) == 4 and stages == sorted(stages)
    assert told.count(NOTICE) == 5 and told.strip().endswith("Its numbers mean nothing.")
    with contextlib.redirect_stdout(io.StringIO()):
        return recipe.parse(next(iter(recipe.STAGES)), None, given).config
