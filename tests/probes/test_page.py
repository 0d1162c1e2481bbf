"""The page about probes: its code runs, and what it says of the probes is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from memkit.probes import PROBES, import_mechanism, make_probe

PAGE = (Path(__file__).parents[2] / "docs" / "probes.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.S)


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """The names that the page's code leaves, run block after block in an empty folder; with fewer steps and samples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        found = {"__name__": "page"}
        for block in BLOCKS:
            exec(block.replace("_steps=4", "_steps=1").replace("samples=32", "samples=8"), found)
    return found


def test_the_code_of_the_page_runs_and_says_what_it_prints(names, capsys):
    assert names["batch"].memory.shape == (32, 4, 10, 4, 4) and names["batch"].target.shape == (32, 4, 2, 4, 4)
    assert names["probe"].chance == 0.125
    assert [(row.mechanism, row.bytes) for row in names["results"]] == [("NearestView", 3040), ("FrameTokens", 3040)]


def test_a_mechanism_has_at_most_15_lines(tmp_path, monkeypatch):
    """As the page says, in my_module.py, and it selects what its text says."""
    (source,) = [block for block in BLOCKS if "class NearestView" in block]
    assert (
        len([line for block in BLOCKS if "(Mechanism):" in block for line in block.splitlines() if line.strip()]) <= 30
    )
    assert len([line for line in source.splitlines() if line.strip()]) <= 15
    (tmp_path / "my_module.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    assert import_mechanism("my_module:NearestView").__name__ == "NearestView"


def test_the_nearest_view_shows_what_is_asked_for(names, monkeypatch):
    """With the window's weights it would be right: the frames that it shows are those of the target."""
    batch = make_probe("recall", distractors=0).sample(torch.Generator().manual_seed(0), 8)
    shown = []
    monkeypatch.setattr(names["NearestView"], "in_sequence", lambda self, transformer, batch: shown.append(batch))
    names["NearestView"].shown(names["NearestView"].__new__(names["NearestView"]), None, batch)
    assert torch.equal(shown[0].memory, batch.target)


def test_the_chances_of_the_page(names):
    (table,) = re.findall(r"\| probe \| the past.*?\n\n", PAGE, re.S)
    rows = {
        cells[0].strip("` "): cells[3] for cells in (line.split("|")[1:] for line in table.splitlines()[2:] if line)
    }
    assert rows.keys() == PROBES.keys()
    for name, said in rows.items():
        ways = [int(number) for number in re.findall(r"1 in (\d+)", said)]
        assert make_probe(name).chance == pytest.approx(sum(1 / n for n in ways) / len(ways)), name
