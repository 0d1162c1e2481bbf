"""STEVO-Bench: the videos of its tasks, and the map that its scorers read."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from memkit.errors import InputError
from memkit.positions import PMRoPE
from memkit.video import read_video
from recipes.remind.studies import stevo
from tests.helpers.stevo_tasks import SHORT, tasks_in


@pytest.fixture
def tasks(tmp_path) -> Path:
    return tasks_in(tmp_path / "tasks")


def test_a_run_with_cameras_follows_the_keys_and_goes_on(config, tasks, capsys) -> None:
    (tasks / "simple_trigger/marble/marble_00/marble_00.yaml").write_text(
        SHORT.format(id="marble_00").replace("null", "down-1")
    )
    command = stevo.Stevo(config, tasks=tasks)
    assert stevo.main(command) == 0
    out = config.out / "stevo-worldplay-keys"
    assert [file.name for file in out.glob("*.json")] == [stevo.OUTPUT_MAP]
    written = json.loads((out / stevo.OUTPUT_MAP).read_text())
    assert written == {"glass": "glass.mp4", "marble": "marble.mp4"}
    lengths = [len(read_video(out / file).frames) for file in written.values()]
    assert lengths == [4 * 5 + 1, 4 * 1 + 1]  # as long as their paths
    (out / "glass.mp4").unlink()
    kept = (out / "marble.mp4").stat().st_mtime_ns
    assert stevo.main(command) == 0
    assert (out / "glass.mp4").exists() and (out / "marble.mp4").stat().st_mtime_ns == kept
    told = capsys.readouterr().out
    assert "3 tasks are variants of 2 scenes" in told and "2 tasks, 1 generated now" in told
    (out / "notes.json").write_text("{}")
    with pytest.raises(InputError, match=r"notes\.json"):
        stevo.main(command)
    with pytest.raises(InputError, match="--tasks"):
        stevo.main(dataclasses.replace(command, tasks=None))


def test_a_run_without_cameras_answers_every_task(config, tasks, tmp_path, monkeypatch) -> None:
    run = shutil.copytree(config.out, tmp_path / "run", ignore=shutil.ignore_patterns("stevo*"))
    still = PMRoPE.from_pretrained(run / "cameras").config
    PMRoPE(dataclasses.replace(still, mode="off")).save_pretrained(run / "cameras")
    config = dataclasses.replace(config, cameras="off", out=run)
    prompts = []

    def sample(config, backbone, positions, plan, seed):
        prompts.append(plan.prompts[0])
        return sample_video(config, backbone, positions, plan, seed)

    sample_video = stevo.sample_video
    monkeypatch.setattr(stevo, "sample_video", sample)
    assert stevo.main(stevo.Stevo(config, tasks=tasks)) == 0
    out = config.out / "stevo"
    written = json.loads((out / stevo.OUTPUT_MAP).read_text())
    assert written == {name: f"{name}.mp4" for name in ("glass_curtain", "marble_00", "marble_lightoff")}
    assert [prompt[:8] for prompt in prompts] == ["A curtai", "A finger", "A finger"]
    assert len(read_video(out / "glass_curtain.mp4").frames) == config.frames
