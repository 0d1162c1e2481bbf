"""Numbers that make no sense are refused when settings are made, by flag; those of the presets are all in range."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable

import pytest

from memkit.banks.captions import BadItem
from memkit.errors import FileError, InputError
from memkit.training import OwnVideos, pick_device, run_command
from recipes.dit_mem import evaluate as dit_mem_evaluate
from recipes.dit_mem import presets as dit_mem
from recipes.memlearner import presets as memlearner
from recipes.remind import generate, train
from recipes.remind import presets as remind
from recipes.tiny_wan.stages import TransformerConfig
from recipes.tiny_wan.vae import VAEConfig

BAD = [
    ("frames", 10**9), ("frames", 0), ("frames", -4), ("fps", math.nan), ("fps", 0.0), ("height", 10**6),
    ("lr", math.nan), ("lr", 0.0), ("lr", -1e-3), ("camera_lr", math.inf), ("batch", 0), ("batch", 10**9),
    ("steps", -1), ("steps", 10**15), ("save_every", 0), ("log_every", 0), ("clip_norm", 0.0), ("shift", math.inf),
    ("drop_text", 1.5), ("node_drop", -0.1), ("text_length", 0), ("sampling_steps", 10**9), ("threads", -1),
    ("guidance_scale", math.nan), ("train_clips", -1), ("test_clips", 10**12), ("seed", 10**30), ("chunk", 0),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD)
def test_numbers_out_of_range_are_refused_by_their_flag(name: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"^--{name.replace('_', '-')} is {value}; give "):
        dataclasses.replace(remind.tiny(), **{name: value})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dataclasses.replace(dit_mem.tiny(), k=0), "--k is 0"),
        (lambda: dataclasses.replace(dit_mem.tiny(), self_memory_prob=math.nan), "--self-memory-prob"),
        (lambda: dataclasses.replace(memlearner.tiny(), budget=0), "--budget is 0; give a number of bytes"),
        (lambda: dataclasses.replace(memlearner.tiny(), video_chunks=10**9), "--video-chunks"),
        (lambda: dit_mem_evaluate.Evaluate(clips=0), "--clips is 0"),
        (lambda: generate.Generate(chunks=-5), "--chunks is -5"),
        (lambda: generate.Generate(fov_degrees=180.0), "--fov-degrees is 180"),
        (lambda: generate.Generate(event_chunks=(2, -1)), "--event-chunks is -1"),
        (lambda: dataclasses.replace(remind.tiny(), frames=9_997, height=4096, width=4096), "are too large"),
        (lambda: VAEConfig(muon_lr=math.nan), "--muon-lr is nan"),
        (lambda: TransformerConfig(workers=0), "--workers is 0"),
    ],
)
def test_every_command_has_its_ranges(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_a_preset_and_an_unlimited_gradient_are_in_range() -> None:
    for recipe in (dit_mem, memlearner, remind):
        for preset in recipe.PRESETS.values():
            assert dataclasses.replace(preset(), clip_norm=math.inf, seed=-(2**60)).clip_norm == math.inf


@pytest.mark.parametrize("name", ["banana", "cuda:99", "meta", ""])
def test_a_device_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(InputError, match=f"There is no device {name!r} .*; give auto, cpu"):
        pick_device(name)


def test_a_command_line_with_bad_numbers_ends_without_a_traceback(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "--out", str(tmp_path), "--frames", "1000000000"])
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: train.main(remind.parse(train.Train, train.__doc__)))
    said = capsys.readouterr().err
    assert ended.value.code == 2 and "--frames is 1000000000" in said and "Traceback" not in said


# -- how a command ends


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("Give\n  less."), 2, "error: Give less.\n"),
        (OSError(28, "No space left on device"), 2, "error: [Errno 28] No space left on device\n"),
        (KeyboardInterrupt(), 130, "interrupted; the same command goes on from what is saved\n"),
    ],
)
def test_an_expected_error_is_one_line(capsys, error: BaseException, code: int, said: str) -> None:
    def command() -> int:
        raise error

    with pytest.raises(SystemExit) as ended:
        run_command(command)
    assert ended.value.code == code and capsys.readouterr().err == said


def test_a_fault_of_the_program_keeps_its_traceback() -> None:
    with pytest.raises(KeyError):
        run_command({}.popitem)
    for returned, code in ((3, 3), (None, 0), ({"a": 1}, 0)):
        with pytest.raises(SystemExit) as ended:
            run_command(lambda returned=returned: returned)
        assert ended.value.code == code


# -- what a prepare command reports


def test_some_bad_items_are_told_and_give_the_exit_code(tmp_path, capsys) -> None:
    own = OwnVideos(captions=tmp_path / "c.csv")
    broken = [BadItem(3, "", "no video"), BadItem(4, "", "no caption")]
    assert own.report(tmp_path, 3, broken, {"a": "too\nshort"}) == 1
    said = capsys.readouterr()
    assert said.err == f"{tmp_path}/c.csv:3: : no video\n{tmp_path}/c.csv:4: : no caption\na: too short\n"
    assert said.out == f"{tmp_path}: 5 listed, 3 bad\n"
    assert dataclasses.replace(own, skip_bad=True).report(tmp_path, 3, broken, {"a": "short"}) == 0
    assert own.report(tmp_path, 3, [], {}) == 0 and own.report(tmp_path, 3, broken, None) == 0


def test_nothing_made_is_an_error_even_if_bad_items_are_skipped(tmp_path) -> None:
    own = OwnVideos(captions=tmp_path / "c.csv", skip_bad=True)
    with pytest.raises(InputError, match="Nothing was added to .*: none of 2 items could be used, .*: too short"):
        own.report(tmp_path, 2, [], {"a": "too short", "b": "no"})
    with pytest.raises(InputError, match=r"Nothing was added to .*: .*c\.csv lists no videos"):
        own.report(tmp_path, 0, [], {})
    with pytest.raises(InputError, match="nothing to render"):
        OwnVideos().source("tiny", 0)
    assert issubclass(FileError, InputError)
