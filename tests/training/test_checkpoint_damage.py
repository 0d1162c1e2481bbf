"""A damaged checkpoint, or one of another model, is refused by name and never changes what a run goes on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from memkit.errors import FileError, InputError
from memkit.training import MuonAdam, TrainState, load_checkpoint, restoring, save_checkpoint, save_torch, steps_done

RUN = {"seed": 1}


def train_state(width: int = 3, layers: int = 1, groups: int = 1) -> TrainState:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW([{"params": parameters[i::groups]} for i in range(groups)])
    model(torch.ones(1, width)).sum().backward()
    optimizer.step()
    return TrainState(model, optimizer, Accelerator(cpu=True))


def whole(state: TrainState) -> dict[str, Any]:
    found = state.state_dict()
    assert found is not None
    return {**found, "step": 4}


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and a == b


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run") / "checkpoint.pt"


@pytest.fixture(scope="module")
def sound(file: Path) -> tuple[dict[str, Any], bytes]:
    state = whole(train_state())
    save_checkpoint(state, file, RUN)
    return state, file.read_bytes()


def check(file: Path, sound: tuple[dict[str, Any], bytes]) -> None:
    try:
        assert equal(load_checkpoint(file, RUN), sound[0])  # attributes of the archive that nothing reads
        assert steps_done(file) == 4
    except InputError as error:
        assert "checkpoint.pt" in str(error) and "restore it from a copy" in str(error)


@given(data=st.data())
def test_changed_bits_never_change_what_is_loaded(file: Path, sound, data: st.DataObject) -> None:
    damaged = bytearray(sound[1])
    ends = st.integers(8 * damaged.index(b"PK\x01\x02"), 8 * len(damaged) - 1)  # the table of contents
    for bit in data.draw(st.lists(st.integers(0, 8 * len(damaged) - 1) | ends, min_size=1, max_size=3)):
        damaged[bit // 8] ^= 1 << bit % 8
    file.write_bytes(damaged)
    check(file, sound)


def test_every_bit_of_the_table_of_contents_is_harmless_or_noticed(file: Path, sound) -> None:
    start = sound[1].index(b"PK\x01\x02")
    for bit in range(8 * start, 8 * (start + 2 * 60)):
        damaged = bytearray(sound[1])
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        check(file, sound)


@given(share=st.floats(0, 1, exclude_max=True))
def test_one_that_is_cut_short_is_refused(file: Path, sound, share: float) -> None:
    file.write_bytes(sound[1][: int(share * len(sound[1]))])
    for read in (lambda: load_checkpoint(file, RUN), lambda: steps_done(file)):
        with pytest.raises(InputError, match=r"checkpoint\.pt .*; move it away to train from the start"):
            read()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "no checkpoint of a training"),
        ({"step": 3}, "no checkpoint of a training"),
        ({"about": "{}"}, "how many steps are done .its step is None"),
        ({"about": "{}", "step": "3"}, "its step is '3'"),
        ({"about": "{}", "step": True}, "its step is True"),
        ({"about": "{}", "step": -1}, "its step is -1"),
        ({"about": '{"seed"', "step": 3}, "it is not JSON"),
        ({"about": "[1]", "step": 3}, "no checkpoint of a training"),
        ({"about": '{"seed": 2}', "step": 3}, "other settings: seed"),
    ],
)
def test_what_is_no_checkpoint_of_this_run_is_refused(tmp_path, content: object, message: str) -> None:
    save_torch(content, tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match=rf"checkpoint\.pt .*{message}"):
        load_checkpoint(tmp_path / "checkpoint.pt", RUN)


def without(state: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: whole(train_state(width=4)), "size mismatch"),
        (lambda: whole(train_state(layers=2)), "'1.weight'"),
        (lambda: whole(train_state(groups=2)), r"groups of \[1, 1\] parameters instead of \[2\]"),
        (lambda: without(whole(train_state()), "modules"), "modules"),
        (lambda: without(whole(train_state()), "optimizer"), "optimizer"),
        (lambda: {**whole(train_state()), "modules": {"0.weight": torch.zeros(3, 3)}}, "Missing key"),
        (lambda: {**whole(train_state()), "modules": [1]}, "AttributeError"),
        (lambda: {**whole(train_state()), "optimizer": {"state": {}, "param_groups": []}}, r"groups of \[\]"),
    ],
)
def test_a_checkpoint_of_another_model_or_optimizer_is_refused(tmp_path, other, message: str) -> None:
    save_checkpoint(other(), tmp_path / "checkpoint.pt", RUN)
    with pytest.raises(FileError, match=rf"checkpoint\.pt does not fit .*{message}.*; move it away"):
        train_state().resume(tmp_path / "checkpoint.pt", RUN)


def test_moments_of_another_shape_are_refused(tmp_path) -> None:
    state = whole(train_state())
    state["optimizer"]["state"][0]["exp_avg"] = torch.zeros(1, 3)  # which torch would broadcast
    save_checkpoint(state, tmp_path / "checkpoint.pt", RUN)
    with pytest.raises(FileError, match=r"exp_avg of parameter 0 with the shape \(1, 3\) instead of \(3, 3\)"):
        train_state().resume(tmp_path / "checkpoint.pt", RUN)
    model = nn.Linear(3, 3)
    optimizer = MuonAdam(model, 0.1, 0.1, lambda _, p: p.ndim == 2)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    muon = optimizer.state_dict()
    muon["muon"]["state"][0]["average"] = torch.zeros(3)
    with pytest.raises(FileError, match="average of parameter 0"), restoring(tmp_path / "checkpoint.pt"):
        optimizer.load_state_dict(muon)


def test_a_sound_checkpoint_resumes(tmp_path) -> None:
    before, after = train_state(), train_state()
    save_checkpoint(whole(before), tmp_path / "checkpoint.pt", RUN)
    with torch.no_grad():
        for parameter in after.model.parameters():
            parameter.zero_()
    assert after.resume(tmp_path / "checkpoint.pt", RUN) == steps_done(tmp_path / "checkpoint.pt") == 4
    assert equal(whole(after), whole(before))
