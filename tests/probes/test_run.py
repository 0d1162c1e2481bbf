"""Runs of probes: a base that is trained once, an honest measurement, and the table."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import partial

import pytest
import torch

from memkit import cli
from memkit.errors import FileError, InputError
from memkit.probes import (
    MECHANISMS,
    ProbeResult,
    ProbeSettings,
    make_probe,
    pretrained,
    probe_table,
    read_results,
    run_probe,
    write_results,
)
from memkit.probes.mechanisms import NoMemory, Window

SMALL = ProbeSettings(blocks=2, heads=2, batch=16, lr=4e-3, warmup=20, pretrain_steps=120, steps=10, samples=200)
TINY = replace(SMALL, pretrain_steps=2, steps=2, batch=4, samples=20, blocks=1)
PROBE = make_probe("recall", facts=2, distractors=0, distance=0, queries=1, patterns=4)
OTHER: dict = {
    "accuracy": 0.5,
    "low": 0.4,
    "high": 0.6,
    "chance": 0.25,
    "control_accuracy": 0.25,
    "wrong_accuracy": 0.25,
}
OTHER |= {"ranges": {}, "options": {}, "settings": {"steps": 7}, "conditions": {}, "curves": {}, "device": "cpu"}
ROW = ProbeResult("recall", "mine", 1, {"facts": 2}, **OTHER, kinds={}, bytes=10, seconds=0.002, parameters=5)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, ProbeResult]:
    """From one small base: with the past in the sequence, without it, and with frames in a wrong order."""

    class WrongKeys(Window):
        """The frames with the cameras of others."""

        def shown(self, transformer, batch):
            cameras = batch.memory_cameras
            return super().shown(
                transformer, replace(batch, memory_cameras=type(cameras)(cameras.c2w.flip(1), cameras.intrinsics))
            )

    folder = tmp_path_factory.mktemp("bases")
    still = replace(SMALL, steps=0)
    return {
        "window": run_probe(Window, PROBE, 1, SMALL, folder=folder),
        "none": run_probe(NoMemory, PROBE, 1, SMALL, folder=folder),
        "wrong keys": run_probe(WrongKeys, PROBE, 1, still, folder=folder),
    }


def test_with_the_past_in_the_sequence_recall_is_learned(runs):
    row = runs["window"]
    assert row.accuracy > 0.9 and row.low <= row.accuracy <= row.high and row.chance == 0.25
    assert abs(row.control_accuracy - 0.25) < 0.12 and abs(row.wrong_accuracy - 0.25) < 0.12
    assert row.kinds == {"fact": row.accuracy} and row.bytes == 2 * (64 + 12) * 4 and row.seconds > 0
    assert row.conditions.keys() == {"without", "another", "random"} and row.curves == {}
    assert (
        row.conditions["another"]["fact"] == row.wrong_accuracy and abs(row.conditions["random"]["fact"] - 0.25) < 0.12
    )


def test_without_the_past_it_is_not(runs):
    row = runs["none"]
    assert abs(row.accuracy - 0.25) < 0.12 and row.bytes == 0
    assert row.accuracy == row.control_accuracy == row.wrong_accuracy


def test_with_wrong_keys_the_model_is_right_by_accident_alone(runs):
    """The other of two frames is shown as the right one: it has the same pattern in a quarter of the samples."""
    assert abs(runs["wrong keys"].accuracy - 0.25) < 0.12


def test_a_base_is_trained_once_and_loaded_bit_for_bit(tmp_path, monkeypatch):
    made, encoder = pretrained(PROBE, TINY, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("memkit.probes.pretrain.train", None)
        again, cameras = pretrained(PROBE, replace(TINY, steps=99, samples=3), tmp_path)
    for one, other in ((made, again), (encoder, cameras)):
        assert all(torch.equal(x, other.state_dict()[key]) for key, x in one.state_dict().items())
    assert any(x.any() for x in cameras.state_dict().values())
    for changed in ({"base_seed": 5}, {"pretrain_steps": 1}, {"lr": 1e-3}):
        pretrained(PROBE, replace(TINY, **changed), tmp_path)
    pretrained(make_probe("recall", facts=2, queries=1), TINY, tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 5


def test_a_damaged_base_is_refused(tmp_path):
    pretrained(PROBE, TINY, tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-7] ^= 1
    file.write_bytes(content)
    with pytest.raises(FileError, match=file.name):
        pretrained(PROBE, TINY, tmp_path)


def test_a_run_is_its_seed(tmp_path):
    def row(seed: int) -> dict:
        torch.rand(1)
        return {**asdict(run_probe(Window, PROBE, seed, TINY, folder=tmp_path)), "seconds": 0}

    state = torch.get_rng_state()
    first = row(1)
    assert torch.rand(1) is not None and first == row(1) != row(2)
    torch.set_rng_state(state)


def test_a_row_tells_what_it_follows_from(tmp_path):
    """Ranges of training, options of the mechanism, and the budget; and each value of a range is tested."""
    probe = make_probe("recall", facts=3, patterns=4)
    row = run_probe(partial(Window, newest=2), probe, 1, TINY, folder=tmp_path)
    assert (
        row.ranges == {"distance": [0, 2, 6]} and row.options == {"newest": 2} and row.settings["pretrain_steps"] == 2
    )
    assert [value for value, _ in row.curves["distance"]] == [0, 2, 6, 12] and dict(row.curves["distance"])[
        2
    ] == row.accuracy
    changed = ({"seed": 2}, {"options": {}}, {"ranges": {}}, {"knobs": {}}, {"settings": {}}, {"mechanism": "other"})
    assert row.identity not in {replace(row, **each).identity for each in changed}
    assert row.identity == replace(row, accuracy=0.0, seconds=9.0).identity


def test_settings_out_of_range_are_refused():
    for bad in ({"steps": -1}, {"samples": 0}, {"blocks": 0}):
        with pytest.raises(InputError, match="steps are 0 or more, and batch, samples, blocks and heads 1 or more"):
            ProbeSettings(**bad)
    for bad in ({"lr": float("nan")}, {"shift": 0.0}, {"lr": float("inf")}, {"warmup": -1}):
        with pytest.raises(InputError, match="lr and shift are positive and finite"):
            ProbeSettings(**bad)


# -- results and the table ---------------------------------------------------------------------------------------------


def test_results_go_to_disk_and_back(tmp_path):
    file = tmp_path / "new" / "leaderboard.json"
    write_results(file, [ROW, replace(ROW, seed=2)])
    assert read_results(file) == [ROW, replace(ROW, seed=2)]
    assert {"probe", "mechanism", "seed", "knobs", "accuracy", "chance", "control_accuracy", "bytes", "seconds"} <= set(
        json.loads(file.read_text())["rows"][0]
    )
    file.write_text(file.read_text().replace('"seed": 2', '"seed": 3'))
    with pytest.raises(FileError):
        read_results(file)
    for content in ('{"rows": [{"probe": "recall"}]}', "{}", "[", '{"rows": 3}'):
        file.write_text(content)
        with pytest.raises(FileError, match="leaderboard has written"):
            read_results(file)


def test_the_table_has_the_best_first_and_marks_a_row():
    results = [
        ROW,
        replace(ROW, mechanism="other", accuracy=1.0, bytes=1234567),
        replace(ROW, mechanism="third", probe="law"),
    ]
    results += [replace(ROW, accuracy=0.7, seed=2), replace(ROW, probe="law", accuracy=0.25)]
    lines = probe_table(results, marked="mine").splitlines()
    assert lines[0].split() == ["recall", "law", "above", "chance", "bytes", "held", "ms", "per", "chunk"]
    assert lines[1].split() == ["→", "mine", "0.60", "0.25", "0.23", "10", "2.0"]
    assert lines[2].split() == ["other", "1.00", "–", "1.00", "1,234,567", "2.0"]
    assert lines[3].split()[0] == "third" and lines[4].split() == ["chance", "0.25", "0.25", "0.00"]


# -- the command -------------------------------------------------------------------------------------------------------

MINE = """
from memkit.probes.mechanisms import Window

class Mine(Window):
    pass
"""


def test_the_command_runs_a_mechanism_of_the_current_folder(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine_of_probes.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    monkeypatch.setattr("torch.set_num_threads", lambda count: None)
    write_results(tmp_path / "leaderboard.json", [replace(ROW, mechanism="window"), replace(ROW, probe="law")])
    budget = [
        "--steps",
        "1",
        "--pretrain-steps",
        "1",
        "--samples",
        "16",
        "--probes",
        "recall",
        "--leaderboard",
        "leaderboard.json",
    ]
    assert cli.main(["probe", "mine_of_probes:Mine", *budget]) == 0
    said = capsys.readouterr().out
    assert "recall, seed 1: accuracy" in said and "→ mine_of_probes:Mine" in said and "\n  window" not in said
    assert "window" in said and "law" not in said
    rows = read_results(tmp_path / "out" / "probes" / "mine_of_probes.Mine.json")
    assert [(row.probe, row.mechanism, row.steps) for row in rows] == [("recall", "mine_of_probes:Mine", 1)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no_such_module:Mine"], "cannot be imported"),
        (["window", "--probes", "recal"], "The probe is 'recal'"),
        (["window", "--leaderboard", "gone.json"], "gone.json"),
        (["window", "--steps", "-1"], "steps are 0 or more"),
    ],
)
def test_the_command_refuses_what_it_cannot_use(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    assert cli.main(["probe", *arguments]) == 2
    assert said in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_names_of_the_table_build_mechanisms():
    transformer = TINY.model(0)
    kinds = {name: type(build(transformer, PROBE)).__name__ for name, build in MECHANISMS.items()}
    assert kinds["newest 4"] == "Window" and kinds["fov"] == "FramesInView" and kinds["kv cache"] == "CachedKeys"
    assert partial(Window, newest=4)(transformer, PROBE).newest == 4
