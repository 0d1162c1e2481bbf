"""STEVO-Bench's tasks in their published form, and the videos and the map that its scorers read."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from memkit.errors import InputError
from memkit.positions import PMRoPE
from memkit.video import read_video
from recipes.remind.studies import stevo

FULL = """
id: glass_curtain
level: 1
category: scalar_state
scalar_variable: Level of the water
tags: []
prompts:
  image_gen_prompt: A glass under a running tap.
  video_WM: A curtain slides in front of the lens and hides the glass for a
    long while. After a pause, the curtain slides away again.
  camera_WM: ''
camera_control:
  HY-WorldPlay: s-1, right-2, left-2
  lingbot: wright-2
  Genie: null
evaluation:
  init_frame_description: An empty glass.
  questions:
  - id: fuller
    question: Is it fuller?
    answer_type: yes_no
    notes_for_judge: Look at the rim.
  inputs_digest: {initial_frame_sha256: '00'}
"""
SHORT = """
id: {id}
level: 2
category: spatial_kinematics
prompts:
  init_frame_edit_prompt: ""
  video_wm: A finger frees the marble; while it rolls, the lamp goes out. After a pause, it comes on again.
  Camera_wM: A finger frees the marble.
camera_control:
  HY-WorldPlay: null
evaluation:
"""


def task_in(folder: Path, name: str, text: str, suffix: str = ".png") -> Path:
    folder = folder / name
    folder.mkdir(parents=True)
    Image.new("RGB", (48, 32), (90, 120, 60)).save(folder / f"{name}_init_frame{suffix}")
    (folder / f"{name}.yaml").write_text(text)
    return folder / f"{name}.yaml"


@pytest.fixture
def tasks(tmp_path) -> Path:
    folder = tmp_path / "tasks"
    task_in(folder / "image_implied", "glass_curtain", FULL)
    for variant in ("marble_lightoff", "marble_00"):
        task_in(folder / "simple_trigger" / "marble", variant, SHORT.format(id=variant))
    return folder


def test_published_tasks_are_read(tasks) -> None:
    glass, plain, dark = stevo.read_tasks(tasks)
    assert (glass.id, glass.keys, glass.camera_prompt) == ("glass_curtain", "s-1, right-2, left-2", "")
    assert glass.video_prompt.startswith("A curtain") and "a long while. After" in glass.video_prompt
    assert glass.frame == tasks / "image_implied/glass_curtain/glass_curtain_init_frame.png"
    assert (plain.id, dark.id) == ("marble_00", "marble_lightoff")
    assert dark.keys == stevo.DEFAULT_KEYS == "s-3, right-10, left-20, right-10"
    assert dark.video_prompt.startswith("A finger") and dark.camera_prompt == "A finger frees the marble."
    assert stevo.read_tasks(tasks, "lingbot")[0].keys == "wright-2"
    assert stevo.read_tasks(tasks, "Genie")[0].keys == stevo.DEFAULT_KEYS


def test_what_a_task_may_leave_out(tmp_path) -> None:
    file = task_in(tmp_path, "ice", "prompts: {video_WM: ice melts}\ncamera_control: {hy-worldplay: ' '}", ".jpg")
    task = stevo.read_task(file)
    assert (task.id, task.keys, task.camera_prompt) == ("ice", stevo.DEFAULT_KEYS, "ice melts")
    assert task.frame.name == "ice_init_frame.jpg"


def test_a_run_with_cameras_answers_the_first_variant_of_each_scene(tasks) -> None:
    found = stevo.camera_tasks(stevo.read_tasks(tasks)[::-1])
    assert [(task.id, task.file, task.frame.parent.name) for task in found] == [
        ("glass", "glass.mp4", "glass_curtain"),
        ("marble", "marble.mp4", "marble_00"),
    ]


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


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("camera_control: {HY-WorldPlay: w-1}", "prompts is missing"),
        ("prompts: a glass", "prompts is str"),
        ("prompts: {camera_WM: a}", "prompts.video_WM is missing"),
        ("prompts: {video_WM: 3}", "prompts.video_WM is 3"),
        ("prompts: {video_WM: ' '}", "prompts.video_WM is ' '"),
        ("prompts: {video_WM: a, camera_WM: 3}", "prompts.camera_WM is 3"),
        ("prompts: {video_WM: a, camera_WM: b, camera_wM: c}", "prompts has camera_wM twice"),
        ("prompts: {video_WM: a}\ncamera_control: w-1", "camera_control is 'w-1'; it maps"),
        ("prompts: {video_WM: a}\ncamera_control: {HY-WorldPlay: 3}", "camera_control.HY-WorldPlay is 3"),
        ("prompts: {video_WM: a}\ncamera_control: {HY-WorldPlay: jump-3}", "camera_control.HY-WorldPlay: Item 1"),
        ("prompts: {video_WM: a}", "first frame task_init_frame.png is missing"),
        ("- a", "the task is list"),
        ("prompts: {video_WM: [", "as YAML"),
    ],
)
def test_bad_tasks_name_file_and_field(tmp_path, text, told) -> None:
    (tmp_path / "task.yaml").write_text(text)
    with pytest.raises(InputError, match=r"task\.yaml.*" + told):
        stevo.read_tasks(tmp_path)


def test_tasks_must_differ(tmp_path) -> None:
    with pytest.raises(InputError, match="holds no task"):
        stevo.read_tasks(tmp_path)
    task = stevo.read_task(task_in(tmp_path, "a", SHORT.format(id="same")))
    task_in(tmp_path, "b", SHORT.format(id="same"))
    with pytest.raises(InputError, match="the id 'same' both"):
        stevo.read_tasks(tmp_path)
    with pytest.raises(InputError, match="would both be"):
        stevo.check_names([dataclasses.replace(task, id="a b"), dataclasses.replace(task, id="a/b")])
