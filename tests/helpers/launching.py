"""Commands as processes of their own, and several of them launched together, on CPUs."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import WanTransformer3DModel

from tests.helpers.forked import code_of, process

ROOT = Path(__file__).parents[2]
LAUNCH = (*("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
          *("--main_process_port", "0"),  # any: tests run beside each other
          *("--mixed_precision", "no", "--dynamo_backend", "no"))  # fmt: skip


def arguments(module: str, config: Any, default: Any) -> list[str]:
    """The command line of a recipe that gives ``config``, of whose preset "tiny" is ``default``."""
    words = ["-m", module, "--preset", "tiny"]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != getattr(default, field.name):
            words += [f"--{field.name}", str(value)] if not isinstance(value, bool) else [f"--{field.name}"]
    return [word.replace("_", "-") if word.startswith("--") else word for word in words]


def popen(*words: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    out = subprocess.PIPE
    words = (sys.executable, *words)
    return subprocess.Popen(words, cwd=ROOT, env=environment, stdout=out, stderr=out, text=True)


def finish(process: subprocess.Popen) -> str:
    """What it printed."""
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    return printed


def two_processes(call: Callable[[], object], folder: Path) -> str:
    """What the first of two processes of a launch prints that make this call together.

    They are forked, so nothing is imported again; their environment is that of torchrun.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def of_rank(rank: int) -> None:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        AcceleratorState._reset_state(reset_partial_state=True)
        with (folder / f"rank-{rank}.txt").open("w") as printed, contextlib.redirect_stdout(printed):
            call()

    children = [process(partial(of_rank, rank)) for rank in range(2)]
    assert [code_of(child) for child in children] == [0, 0]
    return (folder / "rank-0.txt").read_text()


def rows(out: Path) -> list[dict[str, Any]]:
    """Of a run's log, without the time it took."""
    return [{**json.loads(line), "seconds": 0, "crc32": 0} for line in (out / "log.jsonl").read_text().splitlines()]


def held_share(printed: str) -> float:
    """The share of the backbone's weights that each process holds, as a launch has ``printed`` it."""
    found = re.search(r"(\S+) (\wB) of (\S+) (\wB) of the backbone", printed)
    assert found is not None
    sizes = {"kB": 1e3, "MB": 1e6, "GB": 1e9}
    return float(found[1]) * sizes[found[2]] / (float(found[3]) * sizes[found[4]])


def assert_the_steps_of_one(alone: Any, both: Any, printed: str) -> None:
    """That two processes with the weights in pieces (``both``, which ``printed`` this) made the run ``alone``."""
    assert held_share(printed) < 0.55
    for one, two in zip(rows(alone.out), rows(both.out), strict=True):
        assert one["step"] == two["step"]
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert two["norm"] == pytest.approx(one["norm"], rel=1e-3)
    mine, theirs = (
        WanTransformer3DModel.from_pretrained(run.out / "transformer").state_dict() for run in (alone, both)
    )
    for name, weight in mine.items():
        assert (weight - theirs[name]).abs().max() <= 0.1 * alone.lr  # Adam's first steps are the sign of the gradient
    moments = [torch.load(run.out / "checkpoint.pt", weights_only=True)["optimizer"]["state"] for run in (alone, both)]
    assert moments[0].keys() == moments[1].keys()
    for i, state in moments[0].items():
        torch.testing.assert_close(moments[1][i]["exp_avg_sq"], state["exp_avg_sq"], rtol=1e-2, atol=1e-12)
