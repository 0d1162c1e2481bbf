"""What all recipes' tests share."""

from __future__ import annotations

import pytest

from memkit.evaluation import tables


@pytest.fixture(autouse=True)
def quick_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals from few resamples: most tests are about values, and a table has a hundred intervals."""
    monkeypatch.setattr(tables, "RESAMPLES", 20)
