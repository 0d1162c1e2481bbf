"""Shapes in signatures are checked at run time in the tests; hubs are never asked; files are in memory if they fit."""

import gc
import importlib
import os
import shutil
import sys
import tempfile
import threading
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook
from tqdm import tqdm

os.environ["HF_HUB_OFFLINE"] = "1"
# banks and saves wait for the disk thousands of times (fsync), which proves nothing here and takes minutes
IN_MEMORY, ROOM = Path("/dev/shm"), 6e9
if (
    "TMPDIR" not in os.environ
    and os.access(IN_MEMORY, os.W_OK)
    and min(shutil.disk_usage(IN_MEMORY).free, psutil.virtual_memory().available - 6e9) > ROOM
):
    os.environ["TMPDIR"], tempfile.tempdir = str(IN_MEMORY), None
# tqdm's own lock is shared with forked processes: one that a test kills inside of it would hold it for ever
tqdm.set_lock(threading.RLock())
sys.path.insert(0, str(Path(__file__).parents[1]))
# jaxtyping's hook has bytecode files of its own for all that is imported inside of memkit, other libraries included;
# imported before, they load from theirs, seconds faster in each process that runs tests
if "PYTEST_XDIST_WORKER" in os.environ:
    for library in ("torch", "torchvision", "scipy.stats", "sentence_transformers", "diffusers.models.transformers"):
        importlib.import_module(library)
importlib.import_module("tests.helpers.type_checks").skip_shapes_where_there_are_none()
install_import_hook("memkit", "tests.helpers.type_checks.checked")
# a machine that does other work too is slow at everything; it says nothing of the strategies
# the checks of memkit.testing draw inputs themselves, also for parts whose settings a test draws
SUPPRESSED = [HealthCheck.too_slow, HealthCheck.nested_given]
settings.register_profile("explore", deadline=None, suppress_health_check=SUPPRESSED)
# the same examples in each run, so that a change is not blamed for what it did not do; "explore" looks for new ones:
# pytest --hypothesis-profile explore
settings.register_profile("memkit", settings.get_profile("explore"), max_examples=25, derandomize=True)
settings.load_profile("memkit")


@pytest.fixture(scope="session")
def random_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers pipeline folder with random weights; width 48, 9 frames of 32×32."""
    from tests.helpers.random_wan import write_random_pipeline

    return write_random_pipeline(tmp_path_factory.mktemp("random-wan"))


# torch starts threads for autograd when it traces flex attention, and then refuses backward passes in all processes
# that are forked later, as some tests do; and a model of real size leaves gigabytes, which slow each later fork down
FORKED = ("anyflow_far", "test_adapters_far", "flex", "wan_1_3b_for_real")


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run what would do harm to later tests in a process of its own."""
    if not any(word in pyfuncitem.nodeid for word in FORKED):
        return None
    from tests.helpers.forked import code_of, process

    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    assert code_of(process(lambda: pyfuncitem.obj(**arguments))) == 0, "see the traceback in the captured stderr"
    return True


# these fork hundreds of times, which takes the longer the more memory a process holds: they run while it holds little
FIRST = (
    "tests/banks/test_kills",
    "tests/banks/test_join",
    "tests/banks/test_full_disk",
    "tests/banks/test_parallel",
    "tests/retrievers/test_bank_index",
    "tests/faults/",
)


def pytest_xdist_auto_num_workers() -> int:
    """Workers of ``pytest -n auto``: one per core that this process may use, with 3 GB of free memory each."""
    return max(1, min(len(os.sched_getaffinity(0)), int(psutil.virtual_memory().available / 3e9), 8))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what the durations above were measured with."""
    workers = getattr(terminalreporter.config.option, "numprocesses", None) or 1
    terminalreporter.write_line(f"{workers} workers on {os.cpu_count()} cores")


def pytest_collection_finish() -> None:
    """Leave the million objects that libraries and tests have by now out of all later garbage collections, and have
    fewer of these: they took a sixth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(FIRST))
