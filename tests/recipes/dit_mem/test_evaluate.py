"""The evaluation: what each condition shows, rows that are measured once, tables whose figures are right."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from memkit.banks import MemoryBank
from memkit.encoders import EncoderName, load_encoder, make_encoder
from memkit.errors import InputError
from memkit.evaluation import ResultStore, intervals
from memkit.files.json_files import read_json
from memkit.worlds.law_clips import law_of, names_of
from recipes.dit_mem import __main__, evaluate
from recipes.dit_mem.conditions import STUDIES, Condition, knowledge, mixture, plug
from recipes.dit_mem.data import TrainingSet
from recipes.dit_mem.evaluate import CEILINGS, Evaluate, Evaluator
from recipes.dit_mem.memories import encode
from recipes.dit_mem.parts import load_backbone, new_encoder
from recipes.dit_mem.presets import Config, parse
from recipes.dit_mem.scores import OVERALL, Row, constant_table, errors
from recipes.dit_mem.studies import branches, claims
from recipes.dit_mem.studies.branches import Branches, likeness, memory_of, pairs_of
from tests.helpers.smoke_runs import smoke_run


@pytest.fixture(scope="module")
def config(random_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A smoke run with more clips to choose from; behind a new gate nothing of its encoder would be seen."""
    out = tmp_path_factory.mktemp("run")
    return smoke_run(__main__, random_folder, out, "--no-gate", "--test-clips", "96")


@pytest.fixture(scope="module")
def bank(config: Config) -> MemoryBank:
    return MemoryBank.open(config.test_bank)


# -- conditions


def test_what_each_condition_shows(config, bank) -> None:
    targets = bank.ids[:16]
    shown = {name: condition.shown for name, condition in knowledge(config, bank, targets).items()}
    assert list(shown) == ["none", "retrieved", "other", "random", "oracle"]
    for i, target in enumerate(targets):
        own = set(names_of(law_of(target)))
        assert shown["none"][i] == [] and shown["oracle"][i] == [target]
        for name in ("retrieved", "other", "random"):
            assert target not in shown[name][i] and len(set(shown[name][i])) == config.k
        others = [names_of(law_of(id)) for id in shown["other"][i]]
        assert not own & {name for names in others for name in names}
        assert len({names[-1] for names in others}) == 1  # one planet, or one substance
        assert {law_of(id).constants for id in shown["other"][i]} == {law_of(target).constants}
    pairs = [(a, b) for b, row in zip(targets, shown["retrieved"], strict=True) for a in row]
    same = [names_of(law_of(a))[-1] == names_of(law_of(b))[-1] for a, b in pairs]
    assert np.mean(same) > 0.6  # by chance, one in six


def test_memory_is_degraded_step_by_step(config, bank) -> None:
    targets = bank.ids[:8]
    whole, parts = knowledge(config, bank, targets), plug(config, bank, targets)
    assert {len(row) for row in parts["k = 10"].shown} == {10} and {len(row) for row in parts["k = 1"].shown} == {1}
    for n in (1, 2):
        for i in range(len(targets)):
            row = parts[f"{n} of 3 wrong"].shown[i]
            assert set(row[:n]) <= set(whole["other"].shown[i]) and row[n:] == whole["retrieved"].shown[i][: 3 - n]


def test_every_study_shows_the_same_clips_for_the_same_seed(config, bank) -> None:
    for study in STUDIES.values():
        assert study(config, bank, bank.ids[:4]) == study(config, bank, bank.ids[:4])


def test_clips_of_a_batch_do_not_mix(config, bank) -> None:
    encoder = load_encoder(config.encoder_folder)
    rows = [bank.ids[:3], bank.ids[3:4], []]
    together = encode(encoder, bank, rows)
    assert together is not None and together.mask is not None
    for i, row in enumerate(rows[:2]):
        alone = encode(encoder, bank, [row])
        assert alone is not None
        torch.testing.assert_close(together.tokens[i][together.mask[i]], alone.tokens[0])
    assert not together.mask[2].any()
    assert encode(encoder, bank, [[], []]) is None


def test_mixtures_take_each_branch_from_its_own_clips(config, bank) -> None:
    encoder = load_encoder(config.encoder_folder)
    targets = bank.ids[:4]
    whole, mixed = knowledge(config, bank, targets), mixture(config, bank, targets)
    right, wrong = whole["retrieved"].shown, whole["other"].shown
    low, high = mixed["low right, high other"], mixed["high right, low other"]
    assert low == Condition(wrong, low=right) and high == Condition(wrong, high=right)
    evaluator = Evaluator(Evaluate(config), load_backbone(config), bank, encoder)
    made = [evaluator.memory(condition, range(4)) for condition in (low, high, Condition(wrong, low=wrong))]
    expected = [encode(encoder, bank, *pair) for pair in ((right, wrong), (wrong, right), (wrong,))]
    for a, b in zip(made, expected, strict=True):
        assert a is not None and b is not None and torch.equal(a.tokens, b.tokens)
    assert not any(torch.equal(made[i].tokens, made[j].tokens) for i, j in ((0, 1), (0, 2), (1, 2)))
    with pytest.raises(InputError, match="no low and high tokens"):
        encode(make_encoder("patch", "tiny"), bank, right, wrong)


# -- rows


def _row(id: str, condition: str, fitted: float, told: float = math.nan, error: float = 0.1) -> Row:
    known = {} if math.isnan(fitted) else {"gravity": fitted}
    shown = {} if math.isnan(told) else {"gravity": told}
    return Row(id, condition, [], bool(known), {"gravity": float(id)}, shown, known, error, error)


def test_rows_are_kept_over_a_crash_and_never_mixed_with_others(tmp_path) -> None:
    rows = ResultStore(tmp_path / "rows.jsonl", {"seed": 1}, Row)
    first = [_row("3", "none", 3.5), _row("4", "none", math.nan, error=math.nan)]
    for row in first:
        rows.add(row)
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"id": "5", "condi')  # the machine stopped here
    again = ResultStore(tmp_path / "rows.jsonl", {"seed": 1}, Row)
    assert again.rows["none", "3"] == first[0] and math.isnan(again.rows["none", "4"].path_error)
    assert again.missing("none", ["3", "4", "5"]) == ["5"] and again.missing("other", ["3"]) == ["3"]
    again.add(_row("5", "none", 5.0))
    assert len(ResultStore(tmp_path / "rows.jsonl", {"seed": 1}, Row).rows) == 3
    with pytest.raises(InputError, match="seed .1 before, 2 now"):
        ResultStore(tmp_path / "rows.jsonl", {"seed": 2}, Row)


# -- tables


def _run(**conditions: dict[int, tuple[float, float]]) -> dict[tuple[str, str], Row]:
    """Fitted gravity and that of the clips shown, by true gravity."""
    rows = [_row(str(g), name, *pair) for name, pairs in conditions.items() for g, pair in pairs.items()]
    return {(row.condition, row.id): row for row in rows}


def test_a_table_pairs_what_was_found_and_counts_what_was_not() -> None:
    nan = math.nan
    none = {g: (8.0, nan) for g in range(2, 10)}
    right = {g: (g + 0.5, float(g)) for g in range(2, 9)} | {9: (nan, 9.0)}
    wrong = {g: (11.0 - g, 11.0 - g) for g in range(2, 10)}
    run = _run(none=none, retrieved=right, other=wrong)
    table = constant_table([run], ["none", "retrieved", "other"], "gravity")
    assert table["retrieved"]["clips"].value == 7 and table["none"]["clips"].value == 8
    assert table["retrieved"]["error"] == pytest.approx((0.5, 0.5, 0.5))
    assert table["retrieved"]["less none"].value == pytest.approx(0.5 - np.mean([abs(8 - g) for g in range(2, 9)]))
    assert table["retrieved"]["correlation with truth"].value == pytest.approx(1.0)
    assert table["other"]["correlation with truth"].value == pytest.approx(-1.0)
    assert table["other"]["with the clips shown"].value == pytest.approx(1.0)
    nearer = np.mean([abs(8 - (11 - g)) for g in range(2, 10)])
    assert table["other"]["nearer to the clips shown"].value == pytest.approx(nearer)
    assert math.isnan(table["none"]["correlation with truth"].value)  # a constant
    assert math.isnan(table["none"]["with the clips shown"].value)  # none were
    found = {condition: intervals(OVERALL, [run], condition) for condition in ("none", "retrieved")}
    assert found["retrieved"]["found"].value == 7 / 8 and found["none"]["found"] == (1.0, 1.0, 1.0)


def test_the_interval_holds_what_another_run_might_give(monkeypatch) -> None:
    monkeypatch.setattr("memkit.evaluation.tables.RESAMPLES", 2000)
    none = {g: (float(g), math.nan) for g in range(2, 12)}
    alike = [_run(none=none, retrieved={g: (g + 1.0, float(g)) for g in none}) for _ in range(3)]
    apart = [_run(none=none, retrieved={g: (g + off, float(g)) for g in none}) for off in (0.0, 1.0, 2.0)]
    narrow, wide = (constant_table(runs, ["retrieved"], "gravity")["retrieved"]["error"] for runs in (alike, apart))
    assert narrow == pytest.approx((1, 1, 1))
    assert wide.value == pytest.approx(1) and wide.low < 0.4 and wide.high > 1.6


# -- commands


def test_every_flag_can_be_given() -> None:
    told = parse(Evaluate, "", ["--from-frame", "--study", "plug", "--image-cond-prob", "0.2", "--noise-seed", "3"])
    assert told.from_frame and told.suffix == "-from-frame" and told.config.image_cond_prob == 0.2
    asked = parse(claims.Claims, "", ["--claim", "encoders", "--encoders", "patch", "dit_mem", "--seeds", "4", "5"])
    assert asked.encoders == ("patch", "dit_mem") and asked.seeds == (4, 5) and not asked.from_frame
    assert parse(Branches, "", ["--pairs", "3"]).pairs == 3


def test_evaluation_end_to_end_and_nothing_measured_twice(config, capsys) -> None:
    command = Evaluate(config, clips=4, keep=1)
    assert evaluate.main(command) == 0
    results = json.loads((config.out / "knowledge.json").read_text())
    assert list(results["all"]) == [*CEILINGS, "none", "retrieved", "other", "random", "oracle"]
    assert results["all"]["rendered truth"]["found"]["value"] == 1.0
    assert results["gravity"]["rendered truth"]["error"]["value"] < 2.5  # nine frames of 32×32
    said = capsys.readouterr().out
    assert "| rendered truth |" in said and "backbone before and after: sha256" in said
    assert len(list((config.out / "evaluation").glob("*.mp4"))) == 5
    files = [config.out / "measured.jsonl", config.out / "measured-without.jsonl"]
    before = [file.read_text() for file in files]
    assert evaluate.main(command) == 0
    assert [file.read_text() for file in files] == before
    assert evaluate.main(dataclasses.replace(command, study="guidance", clips=2)) == 0
    guided = json.loads((config.out / "guidance.json").read_text())
    assert list(guided["all"])[:3] == ["none", "retrieved", "other"] and len(guided["all"]) == 9
    assert evaluate.main(dataclasses.replace(command, from_frame=True, clips=2)) == 0
    assert (config.out / "knowledge-from-frame.json").exists()
    rows = [json.loads(line) for line in (config.out / "measured-from-frame.jsonl").read_text().splitlines()[1:]]
    others = [json.loads(line) for line in files[0].read_text().splitlines()[1:]]
    first = {row["id"]: row["path_error"] for row in rows if row["condition"] == "retrieved"}
    assert first != {row["id"]: row["path_error"] for row in others if row["condition"] == "retrieved"}
    with pytest.raises(InputError, match="noise_seed"):
        evaluate.main(dataclasses.replace(command, noise_seed=1))


def test_pairs_differ_in_colour_and_planet_and_mixtures_are_of_two_clips(config, bank) -> None:
    pairs = pairs_of(bank, 20)
    assert pairs == pairs_of(bank, 20) and len({pair[0] for pair in pairs}) == 20
    for a, b in ((law_of(a), law_of(b)) for a, b in pairs):
        assert a.colour != b.colour and a.gravity != b.gravity
    encoder = load_encoder(config.encoder_folder)
    a, b = pairs[0]
    own, mixed = memory_of(encoder, bank, [a], [a]), memory_of(encoder, bank, [a], [b])
    whole = encode(encoder, bank, [[a]])
    assert whole is not None and torch.equal(own.tokens, whole.tokens)
    assert not torch.equal(mixed.tokens, own.tokens)


def test_a_clip_is_like_itself_and_unlike_another_in_colour_and_scene() -> None:
    clip, other = "test-42-00000", "test-42-00004"  # a blue ball in a meadow, a yellow one in the desert
    video = law_of(clip).video(17, 8.0, 64)
    own, strange = likeness(video, clip, other, "both", "", 8.0), likeness(video, other, clip, "neither", "", 8.0)
    assert own.colour and own.path < 0.01 and own.scene == 0
    assert abs(own.gravity - own.of_clip) < 0.05 * own.of_clip
    assert not strange.colour and strange.scene > 0.1
    grey = torch.full_like(video, 128)
    nothing = likeness(grey, clip, other, "both", "", 8.0)
    assert not nothing.colour and math.isnan(nothing.path) and nothing.scene > 0.1


@pytest.mark.parametrize(("name", "roles"), [("frequency", 4), ("patch", 2)])
def test_branches_end_to_end(config, tmp_path, name: EncoderName, roles: int) -> None:
    mine = dataclasses.replace(config, encoder=name, banks=config.out, out=tmp_path)
    new_encoder(mine, load_backbone(mine)).save_pretrained(mine.encoder_folder)
    assert branches.main(Branches(mine, pairs=2)) == 0
    table = json.loads((tmp_path / "branches.json").read_text())["all"]
    assert list(table) == ["both", "neither", "low", "high"][:roles]
    rows = (tmp_path / "branches.jsonl").read_text()
    assert len(rows.splitlines()) == 1 + 2 * 2 * roles
    assert branches.main(Branches(mine, pairs=2)) == 0
    assert (tmp_path / "branches.jsonl").read_text() == rows


def test_a_claim_trains_and_measures_each_run_once(config) -> None:
    command = claims.Claims(config, claim="encoders", encoders=("frequency", "dit_mem"), seeds=(1, 2), clips=2)
    assert claims.main(command) == 0
    tables = json.loads((config.out / "encoders.json").read_text())
    assert list(tables["gravity"]) == ["frequency", "dit_mem"]
    assert list(tables["retrieved, less frequency"]) == ["dit_mem"]
    runs = [config.out / f"{name}-{seed}" for name in ("frequency", "dit_mem") for seed in (1, 2)]
    before = [(run / "measured.jsonl").read_text() for run in runs]
    assert before[0] != before[1] and all((run / "encoder" / "model.safetensors").exists() for run in runs)
    assert claims.main(dataclasses.replace(command, claim="knowledge")) == 0  # of the same runs
    after = [(run / "measured.jsonl").read_text() for run in runs]
    assert after[2:] == before[2:]
    for earlier, later in zip(before[:2], after[:2], strict=True):
        assert later.startswith(earlier)
        added = [json.loads(line)["condition"] for line in later[len(earlier) :].splitlines()]
        assert set(added) == {"random"} and len(added) == 2


def test_what_tokens_can_carry_is_learned_from_the_clip_itself(config) -> None:
    command = claims.Claims(config, claim="appearance", encoders=("frequency",), seeds=(1,), pairs=2)
    (run,) = claims.study(command).configs((1,))
    assert run.out != claims.study(dataclasses.replace(command, claim="branches")).configs((1,))[0].out
    batch = TrainingSet(MemoryBank.open(config.bank), run).batch(run.steps - 1)
    assert batch.conditioning_frames == 0 and set(batch.captions) == {""}
    assert torch.equal(batch.memory[:, 0], batch.latents) and not batch.mask[:, 1:].any()
    assert claims.main(command) == 0
    assert list(read_json(config.out / "appearance.json", "measure again")) == ["frequency"]


def test_conditions_are_compared_in_pairs_of_the_same_prompt() -> None:
    def run(shift: float) -> dict:
        rows = [_row(id, "retrieved", float(id) + 1, error=0.3) for id in ("3", "4", "5")]
        rows += [_row("3", "retrieved, conditional", 3 - shift, error=0.2)]
        rows += [_row("4", "retrieved, conditional", math.nan, error=0.2)]
        return {(row.condition, row.id): row for row in rows}

    runs = [run(0.25), run(0.75)]
    cells = intervals(errors(runs), runs, "retrieved, conditional", (runs, "retrieved"))
    assert cells["path error, %"].value == pytest.approx(-10)
    assert cells["gravity error"].value == pytest.approx(-0.5)  # 0.25 and 0.75 off instead of 1, of the one prompt
