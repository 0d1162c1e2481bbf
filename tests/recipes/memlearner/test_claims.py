"""MemLearner's comparisons, their tables, and the claims that share runs."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import re
from typing import get_args

import pytest
import torch

from memkit.errors import InputError
from memkit.evaluation import read_rows, write_tables
from memkit.training import load_backbone
from recipes.memlearner import evaluate, scores
from recipes.memlearner.presets import tiny
from recipes.memlearner.scores import Row, Run, clip_of, score, tables, truth
from recipes.memlearner.studies import claims, report
from tests.helpers.memlearner_runs import trained


def test_evaluation_measures_each_clip_once(config, tmp_path, capsys) -> None:
    trained(config, tmp_path, method="cam", steps=2)
    own = dataclasses.replace(config, out=tmp_path, method="cam", steps=2)
    command = evaluate.Evaluate(own, rooms=1, keep=1)
    assert evaluate.main(command) == 0
    lines = (tmp_path / "measured.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 2 * 2  # two comparisons, with people and without
    assert {p.name for p in (tmp_path / "evaluation").iterdir()} == {"test-00000-truth.mp4", "test-00000-revisit.mp4"}
    assert evaluate.main(command) == 0
    assert (tmp_path / "measured.jsonl").read_text().splitlines() == lines
    shown = capsys.readouterr().out
    assert "rooms with people" in shown and "autoencoder" in shown


def test_a_revisit_turns_away_and_comes_back(config) -> None:
    form = load_backbone(config).video_format
    for i in range(4):
        clip = clip_of("revisit", f"test-{i:05d}", config, form)
        _, cameras = truth(clip, form)
        assert torch.allclose(cameras.c2w[0], cameras.c2w[-1], atol=1e-6) and clip.past == 0
        turned = torch.einsum("fij,ij->f", cameras.c2w[:, :3, :3], cameras.c2w[0, :3, :3])
        farthest = torch.rad2deg(((turned - 1) / 2).clamp(-1, 1).acos()).max()
        assert 89.0 <= farthest <= 180.1


def test_scores_know_the_way_back_from_the_way_there(config) -> None:
    form = load_backbone(config).video_format
    clip = clip_of("revisit", "test-00000", config, form)
    real, cameras = truth(clip, form)
    rng = random.Random(0)
    noisy = (real.int() + rng.randint(5, 9)).clamp(0, 255).to(torch.uint8)
    row = score("test-00000", "revisit", noisy, real, cameras, 1)
    assert 28 < row.psnr < 40  # a constant shift of 5 to 9 grey values
    assert math.isnan(row.again) or row.again >= 40  # on the way there too: equal, which is NaN, or nearly
    half = len(real) // 2
    turned = torch.cat([real[:half], 255 - real[half:]])
    assert score("test-00000", "revisit", turned, real, cameras, 1).again < 12


def test_claims_share_a_start_and_runs(config, tmp_path, capsys) -> None:
    for split in ("train", "test"):
        (tmp_path / split).symlink_to(config.folder / split)
    own = dataclasses.replace(config, out=tmp_path, banks=None, steps=2)
    command = claims.Claims(own, claim="edges", seeds=(1, 2), rooms=1, base_steps=2)
    assert claims.main(command) == 0
    table = json.loads((tmp_path / "edges.json").read_text())["rooms with people"]
    names = ["learned", "learned-without-Q-P", "learned-with-Q-Q", "none"]
    assert list(table) == [*names, "autoencoder", "still"]
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} >= {"base", *(f"{n}-{s}" for n in names for s in (1, 2))}
    times = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/checkpoint.pt")}
    assert claims.main(command) == 0 and times == {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/checkpoint.pt")}
    capsys.readouterr()
    shown = report.Report(own, rooms=1, methods=("learned", "cam", "learned-with-Q-Q"))
    assert report.main(shown) == 0 and "cam-1 was not evaluated" in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    videos = re.findall(r'<video[^>]*aria-label="([^"]*)"', page)
    assert videos == ["truth", "learned", "learned-with-Q-Q"] * 2 and (tmp_path / "report.png").exists()
    assert page.count("<h3>What the queries of “learned” attend to") == 2
    attended = json.loads((tmp_path / "learned-1" / "evaluation" / "test-00000-revisit.json").read_text())
    row = read_rows(tmp_path / "learned-1" / "measured.jsonl", Row)["revisit", "test-00000"]
    assert row.attention == pytest.approx(sum(sum(chunk["shares"]) for chunk in attended) / len(attended), abs=1e-5)
    assert 0 < row.followed < 1
    assert [chunk["times"][-1] for chunk in attended] == [2 * (i + 1) for i in range(len(attended))]
    with pytest.raises(InputError, match="No run"):
        report.main(dataclasses.replace(shown, methods=("cam",)))
    starts = [torch.load(p, weights_only=True)["about"] for p in tmp_path.glob("learned-?/checkpoint.pt")]
    assert len({json.loads(about)["weights"] for about in starts}) == 1


def test_tables_pair_each_clip_with_that_of_other_methods(tmp_path) -> None:
    """Two runs of two methods in two rooms, with people 1 dB worse; "learned" is 2 dB better than none, of each run."""

    def run(seed: int, plus: float, attention: float) -> Run:
        made: Run = {}
        for i, name in enumerate(scores.test_rooms(2)):
            for comparison in scores.COMPARISONS:
                base = 10.0 * seed + i // 2 - i % 2
                made[comparison, name] = Row(name, comparison, base + plus, base + plus, attention, attention)
                for control, level in (("autoencoder", 40.0), ("still", 5.0)):
                    condition = f"{comparison} / {control}"
                    made[condition, name] = Row(name, condition, level, math.nan if control == "still" else level)
        return made

    found = tables({"learned": [run(s, 2.0, 0.7) for s in (1, 2)], "none": [run(s, 0.0, math.nan) for s in (1, 2)]})
    write_tables(tmp_path / "tables.json", found)
    still, busy = found["rooms without people"], found["rooms with people"]
    assert list(still) == ["learned", "none", "autoencoder", "still"]
    assert still["learned"]["truth, dB"].value == pytest.approx(15 + 0.5 + 2)
    assert busy["learned"]["truth, dB"].value == pytest.approx(15 + 0.5 + 2 - 1)
    for people in ("without", "with"):
        more, fewer = (found[f"rooms {people} people: more than {name}"] for name in ("none", "learned"))
        assert list(more) == ["learned"] and list(fewer) == ["none"]
        for measure, value in more["learned"].items():
            # in pairs: rooms and runs differ, the gain does not
            assert value == pytest.approx((2.0, 2.0, 2.0)), measure
            assert fewer["none"][measure].value == pytest.approx(-2.0)
    assert math.isnan(still["still"]["revisit, seen before, dB"].value)
    assert list(found["attention"]) == ["learned"]
    assert found["attention"]["learned"]["truth, of the queries on context"].value == pytest.approx(0.7)
    alone = tables({"none": [run(1, 0.0, math.nan)]})
    assert list(alone) == ["rooms without people", "rooms with people"]


def test_a_name_stands_for_one_run_in_all_claims() -> None:
    named: dict[str, set[str]] = {}
    for claim in get_args(claims.Claim):
        for name, changes in claims.variants(claim, 8, 2, 600).items():
            full = dataclasses.replace(tiny(), **changes)
            named.setdefault(name, set()).add(repr(full))
    assert all(len(settings) == 1 for settings in named.values()) and len(named) == 6 + 3 + 2 + 4 + 1 + 1
    assert list(claims.variants("layers", 8, 2)) == [
        "learned-1-layers",
        "learned",
        "learned-4-layers",
        "learned-8-layers",
        "none",
    ]
