"""``memkit evaluate``: folders that published scorers read, resumption, and errors before anything is generated."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from memkit import cli
from memkit.backbones import WanBackbone
from memkit.errors import InputError
from memkit.evaluation.benchmarks import Task, make_method, read_conditions
from memkit.evaluation.benchmarks.output import images_in
from memkit.video import read_video
from tests.helpers.benchmark_data import frames_of, memobench_in, mind_in, pictures_in
from tests.helpers.stevo_tasks import tasks_in

QUICK = ("--sampling-steps", "1", "--guidance-scale", "1", "--device", "cpu")
HERE = "tests.cli.test_evaluate"


class Drift:
    """A method of a user's that needs no model: the given frames, and a picture that drifts. It stops when told to."""

    made: list[str] = []
    stop_at = -1

    def __init__(self, backbone: WanBackbone) -> None:
        form = backbone.video_format
        self.size = form.num_frames, form.height, form.width

    def generate(self, task: Task, seed: int) -> torch.Tensor:
        if len(Drift.made) == Drift.stop_at:
            raise KeyboardInterrupt
        Drift.made.append(task.id)
        count, height, width = self.size
        new = frames_of((task.length or count) - task.kept, height, width, seed)
        return new if task.given is None else torch.cat([task.given(height, width).frames[-1:][: task.kept], new])


class Attached:
    """Something to attach that counts how often it is."""

    count = 0

    @contextmanager
    def attach(self, *transformers: torch.nn.Module) -> Iterator[None]:
        Attached.count += 1
        yield


def attached(backbone: WanBackbone) -> Attached:
    return Attached()


def evaluate(benchmark: str, data: Path, out: Path, *options: str) -> int:
    arguments = ("--benchmark", benchmark, "--data", str(data), "--out", str(out), *options)
    return cli.main(["evaluate", *arguments])


def files_in(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def test_memobench_on_tiny_wan_from_end_to_end_with_a_thing_attached(tmp_path, capsys):
    data, out = memobench_in(tmp_path / "data"), tmp_path / "out"
    assert evaluate("memobench", data, out, *QUICK, "--frames", "9", "--method", f"{HERE}:attached", "--name", "a") == 0
    said = capsys.readouterr()
    assert "012: no table says when" in said.err and "V psnr" in said.out and Attached.count == 2
    clips = ("Synthetic/Forest/Forest_007", "Real/012")
    assert files_in(out / "a") == sorted(f"{clip}/frames/{i:05d}.png" for clip in clips for i in range(9))
    assert [file.name for file in images_in(out / "a" / clips[0] / "frames")] == [f"{i:05d}.png" for i in range(9)]
    (rows,) = read_conditions(out)
    assert set(rows["a", "Forest_007"].scores) == {f"{p} {m}" for p in "VDR" for m in ("psnr", "ssim")}
    assert rows["a", "012"].scores == {}
    (out / "a" / clips[0] / "frames" / "00003.png").unlink()
    (data / "sam3_metadata" / "phases_real.csv").write_text("id,exit,reenter\n12,3,9\n")
    assert evaluate("memobench", data, out, *QUICK, "--frames", "9", "--method", f"{HERE}:attached", "--name", "a") == 0
    assert "missing or damaged" in capsys.readouterr().err and Attached.count == 3  # one video, and scores of the other
    assert len(read_conditions(out)[0]["a", "012"].scores) == 6
    assert evaluate("memobench", data, out, "--frames", "9", "--method", f"{HERE}:attached", "--name", "a") == 2
    assert "sampling_steps (1 before, 50 now)" in capsys.readouterr().err


def test_an_interrupted_command_goes_on_at_the_next_missing_video(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("memkit.evaluation.benchmarks.leave_and_return.SIZE", (36, 64))
    data, out = pictures_in(tmp_path / "data"), tmp_path / "out"
    options = ("--method", f"{HERE}:Drift", "--name", "drift", "--schedules", "rot180_4chunk", "--chunk-frames", "5")
    Drift.made, Drift.stop_at = [], 2
    assert evaluate("return", data, out, *options) == 130
    Drift.stop_at = -1
    assert evaluate("return", data, out, *options) == 0
    assert len(Drift.made) == len(set(Drift.made)) == 3  # none was made twice
    rows = read_conditions(out)[0]
    assert {row.group for row in rows.values()} == {"replay", "rot180_4chunk"} and len(rows) == 3
    for row in rows.values():
        folder = (out / "drift" / row.file).parent
        assert files_in(folder) == ["revisit_gen_only.mp4", "stage1_metrics.json"]
        assert json.loads((folder / "stage1_metrics.json").read_text()) == row.scores
        assert len(read_video(folder / "revisit_gen_only.mp4").frames) == (8 if row.group == "replay" else 16)
    assert evaluate("return", data, out, *options, "--prompt", "another") == 2
    assert "prompt" in capsys.readouterr().err
    assert "rot180_4chunk" in json.loads((out / "tables.json").read_text())


def test_mind_in_its_layout_and_scores_of_videos_by_others(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("memkit.evaluation.benchmarks.mind.SIZE", (36, 64))
    data, out = mind_in(tmp_path / "data"), tmp_path / "out"
    assert evaluate("mind", data, out, "--frames", "100") == 2
    assert "101 or more" in capsys.readouterr().err and not out.exists()
    options = ("--mirror-frames", "8", "--tests", "mem_test", "mirror_test", "--first", "4", "--name", "other")
    assert evaluate("mind", data, out, *options, "--method", f"{HERE}:Drift") == 0
    (rows,) = read_conditions(out)
    assert files_in(out / "other") == sorted(row.file for row in rows.values()) and len(rows) == 4
    assert rows["other", "1st_data/mem_test/château 1"].scores["lcm mse"] > 0
    (again := tmp_path / "again").mkdir()
    (out / "other").rename(again / "other")  # the same folder, as if another program had written it
    (again / "other" / "1st_data" / "mirror_test" / "château 1" / "path-3.mp4").unlink()
    assert evaluate("mind", data, again, *options, "--score-only") == 1
    assert "path-3.mp4 is missing" in capsys.readouterr().err
    scored = read_conditions(again)[0]
    assert len(scored) == 3 and all(rows[key].scores == row.scores for key, row in scored.items())


@pytest.mark.parametrize("cameras", [True, False])
def test_stevo_has_one_map_and_cameras_in_the_name_of_their_folder(tmp_path, cameras):
    data, out = tasks_in(tmp_path / "data"), tmp_path / "out"
    options = ("--method", f"{HERE}:Drift", "--name", "run", "--cameras", str(cameras))
    assert evaluate("stevo", data, out, *options) == 0
    (folder,) = [place for place in out.iterdir() if place.is_dir()]
    assert folder.name == ("run-worldplay-keys" if cameras else "run")
    ids = ["glass", "marble"] if cameras else ["glass_curtain", "marble_00", "marble_lightoff"]
    assert json.loads((folder / "output_map.json").read_text()) == {id: f"{id}.mp4" for id in ids}
    assert files_in(folder) == sorted([*(f"{id}.mp4" for id in ids), "output_map.json"])


def test_vbench_generates_augmented_prompts_under_the_original_names(tmp_path, capsys):
    (tmp_path / "all.txt").write_text("une crêpe\na cat\nune crêpe\n")
    (tmp_path / "longer.txt").write_text("a thin crêpe on a plate\na cat on a wall\nanother\n")
    options = ("--augmented", str(tmp_path / "longer.txt"), "--videos-per-prompt", "2", "--name", "x")
    assert evaluate("vbench", tmp_path / "all.txt", out := tmp_path / "out", *options, "--method", f"{HERE}:Drift") == 0
    assert files_in(out / "x") == ["a cat-0.mp4", "a cat-1.mp4", "une crêpe-0.mp4", "une crêpe-1.mp4"]
    assert {row.prompt for row in read_conditions(out)[0].values()} == {"a thin crêpe on a plate", "a cat on a wall"}
    # seeds differ between the videos of a prompt
    assert not torch.equal(*(read_video(out / "x" / f"a cat-{i}.mp4").frames for i in range(2)))
    assert evaluate("vbench", tmp_path / "all.txt", out, "--frames", "9") == 2
    assert "--frames is not for vbench" in capsys.readouterr().err


def test_methods_that_cannot_be_used(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{HERE}.files_in", lambda backbone: 3)
    backbone = WanBackbone.tiny()
    for method, message in (
        ("window", "needs weights"),
        ("magic", "no method 'magic'"),
        ("nowhere:Thing", "cannot be imported"),
        (f"{HERE}:QUICK", "name a class or a function"),
        (f"{HERE}:files_in", "returned int"),
    ):
        with pytest.raises(InputError, match=message):
            make_method(method, backbone)
    with pytest.raises(InputError, match="there is no"):
        make_method("queries", backbone, tmp_path)
