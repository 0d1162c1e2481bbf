"""STEVO-Bench's tasks in their published form, and what is wrong with others."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from memkit.errors import InputError
from memkit.prompts import stevo
from tests.helpers.stevo_tasks import SHORT, task_in, tasks_in


@pytest.fixture
def tasks(tmp_path) -> Path:
    return tasks_in(tmp_path / "tasks")


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
    files = stevo.video_files(found)
    assert [(task.id, files[task.id], task.frame.parent.name) for task in found] == [
        ("glass", "glass.mp4", "glass_curtain"),
        ("marble", "marble.mp4", "marble_00"),
    ]


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
    for name in ("a", "b"):
        task_in(tmp_path, name, SHORT.format(id="same"))
    with pytest.raises(InputError, match="the id 'same' both"):
        stevo.read_tasks(tmp_path)


def test_tasks_with_similar_ids_have_videos_of_their_own(tmp_path) -> None:
    task = stevo.read_task(task_in(tmp_path, "a", SHORT.format(id="same")))
    ids = ["same", "a b", "a/b", "a_b", "Same", "../a", "冰", "水"]
    files = stevo.video_files([dataclasses.replace(task, id=id) for id in ids])
    assert files["same"] == "same.mp4" and files["a_b"] == "a_b.mp4"
    assert len({file.lower() for file in files.values()}) == len(ids)
