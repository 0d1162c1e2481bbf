"""What a run needs to go on where it was stopped: the settings that make it this run, and its model and optimizer."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from memkit.errors import FileError, InputError, MemkitError
from memkit.files.atomic import atomic_write, reading, writing
from memkit.files.checksums import write_sums
from memkit.files.json_files import parse_json
from memkit.files.tensors import read_torch
from memkit.files.weights_format import check_torch_checksums
from memkit.pretrained import Pretrained
from memkit.training.optimizer_state import load_optimizer

REMEDY = "move it away to train from the start, or restore it from a copy"


def run_settings(config: Any, overrides: Collection[str], **more: Any) -> dict[str, Any]:
    """What must not change between a run and its resumption: the fields of a dataclass but ``overrides``, and ``more``.

    ``more`` is what the settings do not say: fingerprints of the data and of the weights that a run starts from.
    """
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in overrides}
    return json.loads(json.dumps({**settings, **more}, default=str))


def save_checkpoint(state: dict[str, Any], path: Path, run: dict[str, Any]) -> None:
    """Write a checkpoint of the run with these `run_settings`; a crash leaves the old file or the new one.

    Of ``state``, "step" is the number of steps that are done. Raises `FileError` where the file cannot be written.
    """
    save_torch({**state, "about": json.dumps(run)}, path)


def save_run(parts: Mapping[str, Any], state: TrainState, step: int, out: Path, run: dict[str, Any]) -> None:
    """Write the parts of a model for use, then the checkpoint ``out/checkpoint.pt``. All processes call it.

    ``parts`` are by their names in the state; "method.context" is written to ``out/method/context``. Raises `FileError`
    where a file cannot be written.
    """
    if (whole := state.state_dict()) is not None:  # in the main process
        for name, part in parts.items():
            save_part(part, whole["modules"], f"{name}.", out.joinpath(*name.split(".")))
        save_checkpoint({**whole, "step": step}, out / "checkpoint.pt", run)


def save_torch(content: object, path: str | os.PathLike[str]) -> None:
    """``torch.save``, whole or not at all; `FileError` where the file cannot be written."""
    with atomic_write(path) as partial, partial.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # what torch makes of a full disk
            raise FileError(f"Cannot write {path} ({error}); make room on the disk.") from error


def load_checkpoint(path: Path, run: dict[str, Any]) -> dict[str, Any] | None:
    """The checkpoint, or None if there is none yet. Only tensors and plain values are read, never a pickle.

    Raises `InputError` naming the settings that differ if it belongs to a run with other `run_settings`, and where the
    file is damaged or no checkpoint.
    """
    if not path.exists():
        return None
    state = _state(read_torch(path, REMEDY), path)
    with reading(path, REMEDY):
        before = parse_json(state.pop("about"))
    if not isinstance(before, dict):
        raise FileError(f"{path} is no checkpoint of a training; {REMEDY}.")
    names = [name for name in {**before, **run} if before.get(name) != run.get(name)]
    if names:
        changed = ", ".join(f"{name} ({before.get(name)} before, {run.get(name)} now)" for name in names)
        raise InputError(f"{path} is of a run with other settings: {changed}; set them back, or give another --out.")
    return state


def steps_done(path: Path) -> int:
    """The number of steps behind a checkpoint, whose tensors are compared with their checksums but not kept.

    Raises `InputError` where the file is damaged or no checkpoint.
    """
    try:
        check_torch_checksums(path)
    except InputError as error:
        raise FileError(f"{str(error).removesuffix('.')}; {REMEDY}.") from error
    return _state(read_torch(path, REMEDY, values="skipped"), path)["step"]


def _state(content: object, path: Path) -> dict[str, Any]:
    """What `save_checkpoint` wrote."""
    if not isinstance(content, dict) or not isinstance(content.get("about"), str):
        raise FileError(f"{path} is no checkpoint of a training; {REMEDY}.")
    step = content.get("step")
    if type(step) is not int or step < 0:
        raise FileError(f"{path} does not say how many steps are done (its step is {step!r}); {REMEDY}.")
    return content


@contextmanager
def restoring(path: Path) -> Iterator[None]:
    """Inside, what a checkpoint of another model or optimizer raises becomes a `FileError` that names ``path``."""
    try:
        yield
    except MemkitError as error:
        raise FileError(f"{path} does not fit this run: {str(error).removesuffix('.')}; {REMEDY}.") from error
    except Exception as error:  # torch has many types for a state dict of another model
        why = " ".join(f"{type(error).__name__}: {error}".split())[:400]
        raise FileError(f"{path} does not fit the model of this run ({why}); {REMEDY}.") from error


class TrainState:
    """The model that a run trains, its optimizer, and its moving average if there is one.

    Model and optimizer may be whole in each process or sharded over all of them.
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, accelerator: Accelerator, average: nn.Module | None = None
    ) -> None:
        self.model, self.optimizer, self.accelerator, self.average = model, optimizer, accelerator, average

    def state_dict(self) -> dict[str, Any] | None:
        """Whole tensors for the main process; None for the others, which all have to take part."""
        keep = self.accelerator.is_main_process
        state = {"modules": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.average is not None:
            state["average"] = self.average.state_dict()
        whole = {name: gathered(part, keep) for name, part in state.items()}
        return whole if keep else None

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what `state_dict` gave, whether it came from whole or from sharded training."""
        mine = self.model.state_dict()
        self.model.load_state_dict({name: _like(value, mine[name]) for name, value in state["modules"].items()})
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        moments = {
            i: {name: _like(value, parameters[i]) for name, value in of.items()}
            for i, of in state["optimizer"]["state"].items()
        }
        load_optimizer(self.optimizer, {**state["optimizer"], "state": moments})
        if self.average is not None:
            self.average.load_state_dict(state["average"])

    def resume(self, path: Path, run: dict[str, Any]) -> int:
        """Load the checkpoint if there is one; the step to go on with. All processes call it.

        Raises `InputError` where it is damaged, of another run, or of another model or optimizer.
        """
        state = load_checkpoint(path, run)
        if state is not None:
            with restoring(path):
                self.load_state_dict(state)
        self.accelerator.wait_for_everyone()  # the main process will write where the others have just read
        return 0 if state is None else state["step"]


def save_part(part: Any, weights: Mapping[str, Tensor], prefix: str, folder: Path) -> None:
    """``part.save_pretrained(folder)``, also if it is sharded; its whole weights are those under ``prefix``.

    What diffusers saves gets its checksums beside it. Raises `FileError` where the folder cannot be written.
    """
    if any(isinstance(p, DTensor) for p in part.parameters()):
        kind = next(base for base in type(part).__mro__ if base.__module__ != "torch.distributed.fsdp")
        with torch.device("meta"):
            part = kind.from_config(part.config) if hasattr(kind, "from_config") else kind(part.config)
        own = {name.removeprefix(prefix): x for name, x in weights.items() if name.startswith(prefix)}
        part.load_state_dict(own, assign=True)
    with writing(folder):
        try:
            part.save_pretrained(folder)
        except SafetensorError as error:  # what safetensors makes of a full disk
            raise OSError(str(error)) from error
        if not isinstance(part, Pretrained):
            write_sums(folder)


def gathered(state: Any, keep: bool) -> Any:
    """A state dict with whole tensors in place of shards, one at a time, on the CPU; empty ones unless ``keep``."""
    if isinstance(state, DTensor):
        whole = state.full_tensor()  # all processes take part
        return whole.cpu() if keep else whole.new_empty(0)
    if isinstance(state, dict):
        return {name: gathered(value, keep) for name, value in state.items()}
    return state


def _like(value: Any, like: Tensor) -> Any:
    """A whole tensor, sharded if ``like`` is."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
