"""ReMind's studies: claims and their tables, the contact sheet."""

from __future__ import annotations

import dataclasses
import json

import pytest
from PIL import Image

from memkit.errors import InputError
from memkit.evaluation import run_config
from recipes.remind import evaluate, scores
from recipes.remind.presets import tiny
from recipes.remind.studies import claims, sheet

# -- claims


def test_a_name_stands_for_one_run_in_all_claims() -> None:
    named: dict[str, set[str]] = {}
    for claim in ("evolution", "parts", "cameras", "forgetting"):
        for name, changes in claims.variants(claim).items():
            named.setdefault(name, set()).add(repr(dataclasses.replace(tiny(), **changes)))
    assert all(len(settings) == 1 for settings in named.values()) and len(named) == 8
    assert len({next(iter(settings)) for settings in named.values()}) == 8
    folders = {run_config(tiny(), name, {}, 1).out for name in named}
    assert len(folders) == 8 and not any(" " in str(folder) for folder in folders)


def test_claims_share_runs_and_go_on(config, tmp_path, capsys) -> None:
    for split in ("train", "test"):
        (tmp_path / split).symlink_to(config.folder / split)
    own = dataclasses.replace(config, out=tmp_path, banks=None)
    command = claims.Claims(own, claim="forgetting", seeds=(1, 2), clips=1)
    assert claims.main(command) == 0
    times = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/*") if p.name in ("checkpoint.pt", "measured.jsonl")}
    assert {p.parent.name for p in times if p.suffix == ".pt"} == {"remind-1", "remind-2"}
    rows = list(json.loads((tmp_path / "forgetting.json").read_text())["plain image-to-video"])
    assert rows == ["base, bidirectional", "base", "remind", "remind, bidirectional"]
    assert claims.main(command) == 0
    assert times == {p: p.stat().st_mtime_ns for p in times}
    assert "plain image-to-video" in capsys.readouterr().out
    evaluate.evaluate(evaluate.Evaluate(run_config(own, "remind", {}, 1), clips=1), ("recovery",))
    shown = sheet.Sheet(own, claim="forgetting", clips=1)
    assert sheet.main(shown) == 0
    assert Image.open(tmp_path / "recovery.png").height > 3 * 96  # the twin, the base model, the run
    with pytest.raises(InputError, match=r"test-00001\.mp4"):
        sheet.main(dataclasses.replace(shown, clips=2))


def run_of_rows(claim: str, shift: float) -> dict:
    """Two clips of each condition that a claim measures, with evolution ``shift``, and thrice it in the dark."""
    values = {"psnr": 20.0, "state_evolution": shift, "state_error": 0.1, "found": 1.0}
    kinds = {"look-away": shift, "lights-off": 3 * shift}
    conditions = (*claims.conditions(claim), *scores.CONTROLS, *scores.PLAIN_CONTROLS)
    rows = [evaluate.Row(by, c, by, "fill", **values, evolution=kinds[by]) for c in conditions for by in kinds]
    return {(row.condition, row.id): row for row in rows}


@pytest.mark.parametrize("claim", ["evolution", "parts", "cameras"])
def test_a_claim_compares_with_what_is_removed(claim) -> None:
    names = list(claims.variants(claim))
    found = {name: [run_of_rows(claim, 0.1 * i)] * 2 for i, name in enumerate(names)}
    made = claims.tables(found, claim)
    base = {"evolution": "causal, no curriculum", "parts": "remind", "cameras": "cameras off"}[claim]
    less = made["less no curriculum" if claim == "evolution" else f"less {base.removeprefix('cameras ')}"]
    assert list(less) == [name for name in names if name != base]
    for name, row in less.items():
        wanted = 0.1 * (names.index(name) - names.index(base))
        times = 1 if claim == "cameras" else 2  # of look-away alone; of both
        assert row["evolution, pixels (median)"].value == pytest.approx(times * wanted)
        if claim == "cameras":
            still = made["where the camera stays, less off"][name]
            assert still["evolution, pixels (median)"].value == pytest.approx(3 * wanted)
    whole = next(table for title, table in made.items() if title.startswith("recovery"))
    forgetful = [f"{name}, without the past" for name in names if claim == "evolution"]
    assert list(whole) == [*names, *forgetful, *(c.removeprefix("recovery / ") for c in scores.CONTROLS)]


@pytest.mark.parametrize("claim", ["evolution", "forgetting"])
def test_what_training_changed_is_told_against_the_base_model_in_the_same_mode(claim) -> None:
    def run(i: int) -> dict:
        base = {"recovery / base": 5.0, "plain / base": 3.0, "plain / base, bidirectional": 2.0}
        own = {"recovery": 10.0, "plain": 20.0, "plain / bidirectional": 30.0, scores.FORGETFUL: 1.0}
        psnr = {c: value + i * (c in own) for c, value in (base | own).items()}
        rows = run_of_rows(claim, 0.0).items()
        return {key: dataclasses.replace(row, psnr=psnr.get(row.condition, 0.0)) for key, row in rows}

    made = claims.tables({name: [run(i)] * 3 for i, name in enumerate(claims.variants(claim))}, claim)
    plain = {name: row["PSNR, dB"].value for name, row in made["plain, less base"].items()}
    wanted = {"remind": 17.0, "remind, bidirectional": 28.0}
    if claim == "evolution":
        wanted |= {"causal, no curriculum": 18.0, "causal, no curriculum, bidirectional": 29.0}
        assert [row["PSNR, dB"].value for row in made["less base"].values()] == [5.0, 6.0]
        assert [row["PSNR, dB"].value for row in made["less without the past"].values()] == [9.0, 9.0]
    assert plain == wanted
