"""Settings and files of runs, and command lines."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from memkit.cli import main
from memkit.errors import InputError
from memkit.evaluation import ResultStore
from memkit.training import RunLog, load_checkpoint, pick_device
from memkit.training.loop import lr_multiplier
from tests.faults.apis.banks import bank, embedder_folder
from tests.faults.apis.videos import other
from tests.faults.inputs import NAN, NO_PATH, NO_PLACE, Api
from tests.faults.run_kinds import SETTINGS, Row


def command(run: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> object:
    """What a command prints; its refusal, which is a line on stderr and an exit code, as an `InputError`."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = run(arguments)
        except SystemExit as end:
            code = end.code
    if code:
        raise InputError(f"exit code {code}: {err.getvalue() or out.getvalue()}")
    return out.getvalue()


def memkit(*words: Any) -> object:
    return command(main, [str(word() if callable(word) else word) for word in words])


def stored(file: Any, settings: Any) -> object:
    store = ResultStore(Path(tempfile.mkdtemp()) / "rows.jsonl" if file is None else Path(file), settings, Row)
    store.add(Row("x", "a", 1.0))
    return list(store.rows)


def read_rows_of(content: bytes) -> object:
    store = ResultStore(other("rows.jsonl", content), SETTINGS, Row)
    return list(store.rows.items())


def log_of(content: bytes) -> object:
    folder = other("log.jsonl", content).parent
    RunLog(folder, "run", 3, 6).close()
    return len((folder / "log.jsonl").read_bytes().splitlines())


def checkpoint_of(content: bytes) -> object:
    return load_checkpoint(other("checkpoint.pt", content), {})


def folder_of(folder: Any) -> object:
    RunLog(Path(tempfile.mkdtemp()) if folder is None else Path(folder), "run", 0, 6).close()
    return None


DEEP = b"[" * 100_000
NO_TABLE = (
    DEEP + b"\n",
    b"{}\n",
    b"3\n",
    b"null\n",
    b"[]\n",
    b"\xff\xfe\n",
    b'{"a": NaN}\n',
    b'{"a": 1e999}\n',
    b'{"step": "x"}\n',
    b"\0" * 100 + b"\n",
)

APIS = (
    Api(
        "memkit retrieve",
        lambda bank_, text, k, model: memkit("retrieve", bank_, text, "-k", k, "--model", model),
        {"bank_": lambda: bank().path, "text": "a ball", "k": 2, "model": lambda: embedder_folder()},
        {"bank_": NO_PATH, "text": ("",), "k": ("x", "nan", "1.5", 0, -1, ""), "model": NO_PATH},
        {"bank_": ("bank",), "k": ("-k", "k"), "text": ("blank",)},
    ),
    Api(
        "memkit bank show",
        lambda bank_, first: memkit("bank", "show", bank_, "--first", first),
        {"bank_": lambda: bank().path, "first": 2},
        {"bank_": NO_PATH, "first": ("x", "nan", -1, "1.5")},
        {"bank_": ("bank",)},
    ),
    Api(
        "memkit bank verify",
        lambda bank_: memkit("bank", "verify", bank_),
        {"bank_": lambda: bank().path},
        {"bank_": NO_PATH},
        {"bank_": ("bank",)},
    ),
    Api(
        "memkit bank import-dit-mem",
        lambda folder: memkit("bank", "import-dit-mem", folder, "--out", tempfile.mkdtemp() + "/x") if folder else None,
        {"folder": None},
        {"folder": NO_PATH[:3]},
        {"folder": ("metadata.json",)},
    ),
    Api(
        "memkit inspect",
        lambda file: memkit("inspect", file),
        {"file": lambda: bank().path},
        {
            "file": (
                *NO_PATH,
                lambda: other("a.bin", b"x"),
                lambda: other("a.safetensors", b""),
                lambda: other("config.json", DEEP),
            )
        },
        {"file": ("a.bin", "a.safetensors", "config.json", "file")},
    ),
    Api(
        "memkit",
        lambda words: memkit(*words),
        {"words": ["--help"]},
        {"words": ([], ["x"], ["bank"], ["bank", "x"], ["retrieve"], ["inspect", "--nope", "x"])},
        {"words": ("usage", "required", "invalid", "argument", "options", "subcommand")},
    ),
    Api("ResultStore", stored, {"file": None, "settings": SETTINGS}, {"file": NO_PLACE, "settings": ({"a": NAN},)}),
    Api(
        "ResultStore, its file",
        read_rows_of,
        {"content": b'{"model": "tiny", "steps": 2}\n'},
        {
            "content": (
                *NO_TABLE,
                b'{"model": "tiny", "steps": 3}\n',
                b'{"model": "tiny", "steps": 2}\n{"id": "x"}\n',
                b'{"model": "tiny", "steps": 2}\n[1]\n',
                b'{"model": "tiny", "steps": 2}\n' + DEEP + b"\n",
            )
        },
        {"content": ("rows.jsonl",)},
    ),
    Api(
        "RunLog, its file",
        log_of,
        {"content": b'{"step": 0, "seconds": 1.0}\n'},
        {"content": NO_TABLE},
        {"content": ("log.jsonl",)},
    ),
    Api("RunLog", folder_of, {"folder": None}, {"folder": NO_PLACE}),
    Api(
        "load_checkpoint",
        lambda content: content and checkpoint_of(content),
        {"content": None},
        {"content": (b"PK\3\4abc", b"\x80\x04x.", DEEP, b"x", b"\x80\x02}q\x00.")},
        {"content": ("checkpoint.pt",)},
    ),
    Api("pick_device", pick_device, {"name": "cpu"}, {"name": ("gpu", "cuda:7", "", None, 3.5, "cpu:x")}),
    Api(
        "lr_multiplier",
        lr_multiplier,
        {"step": 1, "steps": 10, "warmup": 0, "schedule": "constant"},
        {"schedule": ("x", None)},
    ),
)
