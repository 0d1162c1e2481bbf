"""A video that is there and whole is not generated twice, and never overwritten by another one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memkit.errors import FileError, InputError
from memkit.files.json_files import read_json, write_json
from memkit.generation import VideoJob

SETTINGS = {"steps": 4, "rate": 0.5}


def written(folder: Path) -> VideoJob:
    job = VideoJob("a cat", 3, folder / "cat.mp4", folder / "cat.json")
    job.write(torch.zeros(3, 16, 16, 3, dtype=torch.uint8), 8.0, SETTINGS, hits=[])
    return job


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


@given(data=st.data())
def test_a_video_with_a_changed_bit_is_generated_again(folder: Path, data: st.DataObject) -> None:
    job = written(folder)
    assert job.is_done(SETTINGS)
    damaged = bytearray(job.video.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(damaged) - 1))
    damaged[bit // 8] ^= 1 << bit % 8
    job.video.write_bytes(damaged)
    assert not job.is_done(SETTINGS)


@given(data=st.data())
def test_a_damaged_file_of_settings_is_named_and_the_video_stays(folder: Path, data: st.DataObject) -> None:
    job = written(folder)
    damaged = bytearray(job.about.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(damaged) - 17))  # less the last brace: without it, the file is cut short
    damaged[bit // 8] ^= 1 << bit % 8
    job.about.write_bytes(damaged)
    with pytest.raises(FileError, match=r"cat\.json is damaged|cat\.json cannot be read.*; remove it to generate"):
        job.is_done(SETTINGS)


def test_files_from_before_checksums_count(tmp_path) -> None:
    job = written(tmp_path)
    about = read_json(job.about, "")
    for missing in ("sha256", "bytes", "file"):
        about.pop(missing)
        write_json(job.about, about)
        assert job.is_done(SETTINGS)
    for cut in ("", '{"prompt": "a c'):
        job.about.write_text(cut)
        assert not job.is_done(SETTINGS)


@pytest.mark.parametrize("content", ['{"settings": 3}', '{"prompt": "a cat", "seed": 3, "settings": [1]}', "{}"])
def test_a_file_of_something_else_is_refused(tmp_path, content: str) -> None:
    job = written(tmp_path)
    job.about.write_text(content)
    with pytest.raises(InputError, match=r"cat\.json is not of this recipe"):
        job.is_done(SETTINGS)
