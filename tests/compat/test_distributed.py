"""Everything that attaches to a model, on two processes: what it gives on one, or a typed error."""

from __future__ import annotations

import json

import pytest

from tests.compat.distributed import PARALLEL, measure
from tests.helpers.attachables import ATTACHABLES
from tests.helpers.launching import two_processes


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float | str]:
    return json.loads(two_processes(measure, tmp_path_factory.mktemp("two")))


@pytest.mark.parametrize("first", ["feature", "thing"])
@pytest.mark.parametrize("name", ATTACHABLES)
@pytest.mark.parametrize("row", PARALLEL)
def test_cell(found: dict[str, float | str], row: str, name: str, first: str) -> None:
    got, refused = found[f"{name}-{row}-{first}"], PARALLEL[row].refused.get(name)
    if refused is not None:
        assert isinstance(got, str) and refused.match in got
    else:
        assert isinstance(got, float) and got <= PARALLEL[row].atol, got
