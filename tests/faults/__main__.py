"""``python -m tests.faults``: damage, kill and misuse everything, and print what came of it.

Prints each fault that came out badly and the table of outcomes. Exits 1 if there was one.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1")

from tqdm import tqdm  # noqa: E402

tqdm.set_lock(threading.RLock())  # its own is shared with forks: one that is killed inside would hold it for ever

from tests.faults.outcomes import Result  # noqa: E402
from tests.faults.table import Table, write_pages  # noqa: E402
from tests.faults.torture import PARTS, Task, run_all, sample, tasks_of  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.faults", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="of the places that are damaged and interrupted")
    parser.add_argument("--minutes", type=float, default=0.0, help="draw more places until so much time has passed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--part", choices=PARTS, action="append", help="one part alone; may be given several times")
    parser.add_argument("--only", default="", help="kinds whose name contains this")
    parser.add_argument("--sample", action="store_true", help="a few bad inputs alone, as the tests give them")
    parser.add_argument(
        "--write",
        action="store_true",
        help="write the tables into docs/reliability.md and docs/reliability-outcomes.md",
    )
    parser.add_argument("--verbose", action="store_true", help="print every case")
    options = parser.parse_args()
    start, table, bad = time.monotonic(), Table(), 0
    tasks = sample(options.seed) if options.sample else tasks_of(options.part or PARTS, options.only)
    for task, results in run_all(tasks, options.seed, options.jobs, start + 60 * options.minutes):
        table.add(task.part, results)
        for result in results:
            bad += not result.good
            if options.verbose or not result.good:
                print(line_of(task, result), flush=True)
    print(table.summary())
    if options.write:
        write_pages(table, options.seed)
    return int(bad > 0)


def line_of(task: Task, result: Result) -> str:
    return f"{result.outcome} | {task.part}: {result.kind} | {result.fault} | {result.detail[:300]}"


if __name__ == "__main__":
    sys.exit(main())
