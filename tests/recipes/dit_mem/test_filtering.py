"""Filtering the hidden states of a frozen model: the filters, what is measured, and a run that was stopped."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from memkit.encoders import HighPass
from memkit.errors import InputError
from memkit.generation import generate_videos
from memkit.injectors.hidden_filters import WithMean
from recipes.dit_mem.presets import parse, tiny
from recipes.dit_mem.studies import filtering
from recipes.dit_mem.studies.filtering import ANOTHER, BANDS, Filtering, conditions, law_of
from recipes.dit_mem.studies.twins import UNFILTERED
from tests.helpers.edited_files import edit_json

GRID = 3, 2, 4


def test_low_and_high_make_the_whole_and_the_mean_stays_if_told() -> None:
    x = torch.randn(2, 3, *GRID)
    low, high, kept = (BANDS[name](0.25)(x) for name in ("low", "high", "high and mean"))
    torch.testing.assert_close(low + high, x)
    torch.testing.assert_close(kept.mean((-3, -2, -1)), x.mean((-3, -2, -1)))
    assert high.mean((-3, -2, -1)).abs().max() < 1e-6
    half = WithMean(HighPass())(x.bfloat16())
    assert half.dtype == torch.bfloat16


# -- conditions


def test_conditions_of_a_model() -> None:
    names = [condition.name for condition in conditions(Filtering(), 8)]
    assert names[:2] == [UNFILTERED, ANOTHER] and len(set(names)) == len(names) == 2 + 3 * 2 * 4
    assert {condition.place for condition in conditions(Filtering(), 8)} == {"embedding", 0, 4, 6}
    assert {condition.place for condition in conditions(Filtering(blocks=(1,)), 8)} == {"embedding", 1}
    asked = parse(Filtering, "", ["--strengths", "1", "-0.5", "--blocks", "2", "--cutoffs", "0.1"])
    assert (asked.strengths, asked.blocks, asked.cutoffs) == ((1.0, -0.5), (2,), (0.1,))


# -- the command


@pytest.fixture(scope="module")
def done(random_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Filtering:
    """A study of three prompts in two batches, finished."""
    out = tmp_path_factory.mktemp("run")
    config = dataclasses.replace(
        tiny(), model=str(random_folder), out=out, text_length=512, sampling_steps=2, videos_at_once=2
    )
    command = Filtering(config, prompts=3, strengths=(1.0,), blocks=(1,), keep=1)
    assert filtering.main(command) == 0
    return command


def _read(command: Filtering) -> dict:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    return json.loads((command.config.out / "filtering.json").read_text(), parse_constant=refuse)


def test_end_to_end(done) -> None:
    found = _read(done)
    names = [condition.name for condition in conditions(done, 3)]
    assert list(found["table"]) == names and len(found["clips"]) == 3 * len(names) == 3 * 8
    rows = {(row["condition"], row["prompt"]): row for row in found["clips"]}
    for (name, _), row in rows.items():
        assert (row["squared_error"] == 0) == (name == UNFILTERED)
        assert (row["changed"] == 0) == (name in (UNFILTERED, ANOTHER))
    twins = [load_file(done.config.out / "filtering" / f"{i:02d}.safetensors")["video"] for i in range(3)]
    assert all(twin.shape == (9, 32, 32, 3) for twin in twins) and not twins[0].equal(twins[1])
    assert len(list((done.config.out / "filtering").glob("*.mp4"))) == len(names)
    assert Image.open(done.config.out / "filtering.png").height > 64 * len(names)
    cells = found["table"][names[2]]
    error = sum(rows[names[2], i]["squared_error"] for i in range(3)) / 3
    assert cells["PSNR, dB"]["value"] == pytest.approx(-10 * math.log10(error))
    ratio = sum(rows[names[2], i]["motion"] for i in range(3)) / sum(rows[UNFILTERED, i]["motion"] for i in range(3))
    assert cells["motion, ratio"]["value"] == pytest.approx(ratio)
    assert found["table"][UNFILTERED]["PSNR, dB"]["value"] is None


def test_a_stopped_run_goes_on_to_the_same_rows(done, monkeypatch) -> None:
    whole, file = _read(done), done.config.out / "filtering.json"
    calls: list[list[str]] = []

    def counted(backbone, prompts, **options):
        calls.append(list(prompts))
        return generate_videos(backbone, prompts, **options)

    monkeypatch.setattr(filtering, "generate_videos", counted)
    filtering.run(done)
    assert calls == [] and _read(done) == whole

    kept = [row for row in whole["clips"] if (row["condition"], row["prompt"]) not in {(ANOTHER, 1), (_LAST, 0)}]
    edit_json(file, clips=kept)
    twin = done.config.out / "filtering" / "02.safetensors"
    before = load_file(twin)["video"]
    twin.unlink()
    filtering.run(done)
    assert sorted(map(str, _read(done)["clips"])) == sorted(map(str, whole["clips"]))
    first, second = [law_of(0).caption, law_of(1).caption], [law_of(2).caption]
    assert calls == [second, first, first] and load_file(twin)["video"].equal(before)  # whole batches, no others


_LAST = "high and mean 0.25, block 1, 1"


@pytest.mark.parametrize("change", [{"seed": 1}, {"guidance_scale": 1.0}])
def test_rows_made_in_another_way_are_left_alone(done, change: dict) -> None:
    before = (done.config.out / "filtering.json").read_bytes()
    other = dataclasses.replace(done, config=dataclasses.replace(done.config, **change))
    with pytest.raises(InputError, match=next(iter(change))):
        filtering.run(other)
    with pytest.raises(InputError, match="no block 3"):
        filtering.run(dataclasses.replace(done, blocks=(3,)))
    assert (done.config.out / "filtering.json").read_bytes() == before
