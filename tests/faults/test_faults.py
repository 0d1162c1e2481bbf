"""A few faults of every kind of file that memkit writes, the same in every run; ``make torture`` draws more of them.

MEMKIT_FAULTS_SEED sets another seed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from tests.faults.all_kinds import OWN
from tests.faults.all_writers import WRITERS
from tests.faults.damage import WAYS
from tests.faults.damaging import Damaging
from tests.faults.killing import Killing
from tests.faults.kinds import FileKind
from tests.faults.table import rows_of_page
from tests.faults.torture import PARTS, names_of
from tests.faults.writers import Writer

SEED = os.environ.get("MEMKIT_FAULTS_SEED", "0")
EACH = 1
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("kind", OWN, ids=lambda kind: kind.name)
def test_damage_is_an_error_that_names_the_file_or_changes_nothing(tmp_path: Path, kind: FileKind) -> None:
    damaging, random = Damaging(kind, tmp_path), Random(f"{SEED}:{kind.name}")
    drawn = (damaging.result(f"{SEED}:{way}", way) for way in random.sample(WAYS, len(WAYS)))
    results = list(islice((result for result in drawn if result is not None), EACH))
    assert len(results) == EACH and [result for result in results if not result.good] == []


@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: writer.name)
def test_an_interrupted_writer_leaves_the_state_before_or_the_one_after(tmp_path: Path, writer: Writer) -> None:
    killing, random = Killing(writer, tmp_path), Random(f"{SEED}:{writer.name}")
    results = [next(killing.cuts(SEED, 1, kills=True)), killing.refused(random.randrange(12))]
    assert [result for result in results if result is not None and not result.good] == []


def test_bad_inputs_are_refused_by_name() -> None:
    """In a process of its own: the run-time checks of shapes that these tests turn on would come first."""
    command = [sys.executable, "-m", "tests.faults", "--sample", "--jobs", "1", "--seed", SEED]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_has_a_row_for_every_kind() -> None:
    assert rows_of_page() == {part: names_of(part) for part in PARTS}, "run: python -m tests.faults --write"
