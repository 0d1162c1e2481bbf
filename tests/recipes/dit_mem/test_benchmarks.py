"""PhyGenBench and VBench: what is planned, what their scorers find, and that a run is taken up where it stopped."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch

from memkit.banks import MemoryBank
from memkit.errors import InputError
from memkit.generation import VideoJob
from memkit.prompts import PlannedVideo
from memkit.video import read_video
from recipes.dit_mem.generate import generate_missing
from recipes.dit_mem.parts import load_backbone, new_encoder
from recipes.dit_mem.presets import Config, parse, tiny
from recipes.dit_mem.studies.benchmarks import (
    Benchmarks,
    main,
    plan,
)

CAPTIONS = ["a red ball falls", 'an "egg", 30° hot: 50% water?', "a red ball falls"]
CATEGORIES = {"animal": ["a cat-1", "a dog"], "food": ["une crêpe", "a dog"]}


@pytest.fixture(scope="module")
def config(random_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A random model, a bank of random clips, and an encoder that was not trained."""
    config = dataclasses.replace(
        tiny(),
        model=str(random_folder),
        out=tmp_path_factory.mktemp("run"),
        gate=False,
        sampling_steps=1,
        query_pattern="",
        videos_at_once=1,  # in larger batches a video is the same up to rounding
    )
    new_encoder(config, load_backbone(config)).save_pretrained(config.encoder_folder)
    with MemoryBank.create(config.bank) as bank:
        noise = torch.Generator().manual_seed(0)
        for i, caption in enumerate(("a blue cube", "a cat", "a pot of soup", "an egg", "a wheel")):
            bank.add(f"clip-{i}", torch.randn(16, 3, 4, 4, generator=noise), caption)
    return config


@pytest.fixture
def phygenbench(tmp_path: Path) -> Path:
    return _phygenbench(tmp_path / "prompts.json", CAPTIONS)


def _phygenbench(file: Path, captions: list[str]) -> Path:
    laws = {"physical_laws": "Gravity", "sub_category": "Motion", "main_category": "Mechanics"}
    file.write_text(json.dumps([{"caption": caption, **laws} for caption in captions]), encoding="utf-8")
    return file


@pytest.fixture
def vbench(tmp_path: Path) -> Path:
    folder = tmp_path / "prompts"
    folder.mkdir()
    for category, prompts in CATEGORIES.items():
        (folder / f"{category}.txt").write_text("\n".join(prompts) + "\n\n", encoding="utf-8")
    return folder


def _run(config: Config, folder: Path, **options) -> dict[str, bytes]:
    """The videos of a run, by name."""
    assert main(Benchmarks(config, videos_to=folder, **options)) == 0
    assert not [path for path in (folder / "videos").iterdir() if path.suffix != ".mp4"]
    return {path.name: path.read_bytes() for path in sorted((folder / "videos").iterdir())}


def test_the_first_prompts_of_each_file(config, phygenbench, vbench) -> None:
    some = plan(Benchmarks(config, "vbench", vbench, first=1))
    assert {video.prompt for video in some} == {"a cat-1", "une crêpe"} and len(some) == 10
    all_of_them = plan(Benchmarks(config, "vbench", vbench))
    assert len(all_of_them) == 15
    assert (
        plan(Benchmarks(config, "phygenbench", phygenbench, first=2))
        == plan(Benchmarks(config, "phygenbench", phygenbench))[:2]
    )


# -- wrong flags


def test_wrong_flags_are_refused_before_anything_is_written(config, tmp_path, phygenbench, vbench) -> None:
    to = {"videos_to": tmp_path / "to"}
    for benchmark, settings, message in [
        ("phygenbench", {}, "--prompts"),
        ("phygenbench", {"prompts": phygenbench, "first": -1}, "--first"),
        ("phygenbench", {"prompts": tmp_path / "nowhere.json"}, "nowhere"),
        ("vbench", {"prompts": tmp_path / "nowhere"}, "nowhere"),
        ("vbench", {"prompts": vbench, "videos_per_prompt": 0}, "videos.per.prompt"),
        ("vbench", {"prompts": vbench, "video_name": "{n}.mp4"}, "--video-name"),
        ("phygenbench", {"prompts": phygenbench, "videos_per_prompt": 2}, "--videos-per-prompt"),
        ("phygenbench", {"prompts": phygenbench, "video_name": "../{n}.mp4"}, "video_name"),
        ("phygenbench", {"prompts": phygenbench, "video_name": "video.mp4"}, "video_name"),
    ]:
        with pytest.raises(InputError, match=message):
            main(Benchmarks(config, benchmark, **settings, **to))
    assert not (tmp_path / "to").exists()


def test_the_command_line(vbench) -> None:
    command = parse(Benchmarks, "", ["--benchmark", "vbench", "--prompts", str(vbench), "--memory", "none", "--k", "2"])
    assert command == Benchmarks(command.config, "vbench", vbench, memory="none") and command.config.k == 2
    assert parse(Benchmarks, "", []) == Benchmarks(tiny())


# -- runs


def test_phygenbench_from_prompts_to_its_folder(config, tmp_path, phygenbench, capsys) -> None:
    folder = tmp_path / "made"
    videos = _run(config, folder, benchmark="phygenbench", prompts=phygenbench)
    assert list(videos) == [f"video_output_{n}.mp4" for n in (1, 2, 3)]
    assert videos["video_output_1.mp4"] == videos["video_output_3.mp4"] != videos["video_output_2.mp4"]
    assert read_video(folder / "videos" / "video_output_2.mp4").frames.shape == (9, 32, 32, 3)
    index = [PlannedVideo(**{**row, "categories": tuple(row["categories"])}) for row in _json(folder / "index.json")]
    assert index == plan(Benchmarks(config, "phygenbench", phygenbench))
    assert index[0].categories == ("Mechanics", "Motion", "Gravity")
    facts = [_json(folder / "about" / f"{n}.json") for n in (1, 2, 3)]
    assert [fact["prompt"] for fact in facts] == CAPTIONS and {fact["seed"] for fact in facts} == {42}
    assert all(len(fact["hits"]) == config.k for fact in facts)
    assert str(folder / "videos") in capsys.readouterr().out


def _json(file: Path):
    return json.loads(file.read_text(encoding="utf-8"))


def test_what_vbench_finds(config, tmp_path, vbench) -> None:
    videos = _run(config, tmp_path / "made", benchmark="vbench", prompts=vbench, videos_per_prompt=2, memory="none")
    names = os.listdir(tmp_path / "made" / "videos")
    suffix = Path(names[0]).suffix  # so the scorer has it: of the first file there is
    wanted = {f"{prompt}-{i}{suffix}" for prompts in CATEGORIES.values() for prompt in prompts for i in range(2)}
    assert set(names) == wanted and len(wanted) == 6
    assert len(set(videos.values())) == 6  # each its own noise, or prompt
    # in another order and from other files they are the same videos
    (tmp_path / "some.txt").write_text("une crêpe\na cat-1\n", encoding="utf-8")
    options = {"benchmark": "vbench", "prompts": tmp_path / "some.txt", "videos_per_prompt": 1, "memory": "none"}
    assert _run(config, tmp_path / "other", **options) == {n: videos[n] for n in ("a cat-1-0.mp4", "une crêpe-0.mp4")}


def test_only_what_is_missing_is_made_again_and_is_the_same(config, tmp_path, phygenbench, capsys) -> None:
    made = {"benchmark": "phygenbench", "prompts": phygenbench}
    before = _run(config, tmp_path, **made)
    files = [tmp_path / "videos" / name for name in before]
    for damage in (
        files[1].unlink,  # the video is gone
        (tmp_path / "about" / "2.json").unlink,  # the run was stopped between the two
        lambda: files[1].write_bytes(before[files[1].name][:500]),  # copied in part
        lambda: (tmp_path / "about" / "2.json").write_text('{"prompt": "an'),  # the machine crashed
    ):
        damage()
        times = [file.stat().st_mtime_ns for file in (files[0], files[2])]
        capsys.readouterr()
        assert _run(config, tmp_path, **made) == before
        assert "1 video to generate, 2 exist already" in capsys.readouterr().err
        assert [file.stat().st_mtime_ns for file in (files[0], files[2])] == times
    assert not list(tmp_path.rglob("*.part*"))


def test_a_trial_grows_into_the_whole(config, tmp_path, vbench, capsys) -> None:
    options, config = {"benchmark": "vbench", "prompts": vbench}, dataclasses.replace(config, videos_at_once=3)
    some = _run(config, tmp_path / "made", first=1, videos_per_prompt=1, **options)
    assert len(some) == 2
    more = _run(config, tmp_path / "made", videos_per_prompt=2, **options)
    assert "4 videos to generate, 2 exist already" in capsys.readouterr().err
    assert some.items() <= more.items() and len(more) == 6
    assert len(_json(tmp_path / "made" / "index.json")) == 6


def test_nothing_is_overwritten_or_mixed(config, tmp_path, phygenbench) -> None:
    made = {"benchmark": "phygenbench", "prompts": phygenbench}
    folder = tmp_path / "made"
    before = _run(config, folder, **made, first=2)
    index = (folder / "index.json").read_bytes()
    (folder / "videos" / "video_output_2.mp4").unlink()
    for changes, options, message in [
        ({"seed": 7}, {}, "seed"),
        ({"sampling_steps": 2}, {}, "steps"),
        ({"k": 2}, {}, r"\(k\)"),
        ({}, {"memory": "none"}, "memory"),
        ({}, {"video_name": "{n}.mp4"}, "its file"),
        ({}, {"prompts": _phygenbench(tmp_path / "other.json", CAPTIONS[1:])}, "prompt"),
    ]:
        with pytest.raises(InputError, match=message):
            _run(dataclasses.replace(config, **changes), folder, **{**made, **options})
    assert (folder / "index.json").read_bytes() == index
    left = {path.name: path.read_bytes() for path in (folder / "videos").iterdir()}
    assert left == {name: content for name, content in before.items() if name != "video_output_2.mp4"}
    (folder / "about" / "1.json").write_text('{"mine": 1}')
    with pytest.raises(InputError, match="not of this recipe"):
        _run(config, folder, **made)


def test_two_prompts_of_one_file_do_not_overwrite_each_other(config, tmp_path) -> None:
    """As they would where a file system ignores case."""
    place = tmp_path / "videos" / "a.mp4", tmp_path / "about" / "a.json"
    jobs = [VideoJob("A fantasy landscape", 42, *place), VideoJob("a fantasy landscape", 42, *place)]
    with pytest.raises(InputError, match="prompt"):
        generate_missing(config, jobs, "none", None, None)
    assert _json(place[1])["prompt"] == "A fantasy landscape"
    with pytest.raises(InputError, match="prompt"):
        generate_missing(config, jobs[1:], "none", None, None)
