"""ReMind's evaluation: scores, clips measured once, what is given and what is not."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from memkit.cameras import Cameras
from memkit.errors import InputError
from memkit.evaluation import intervals, select
from memkit.files.checksums import verify_sums
from memkit.interruptions.timing import frames_of
from memkit.metrics.hidden_process import moving_pixels
from memkit.training import load_backbone
from memkit.video import read_video, write_video
from recipes.remind import evaluate, generate, prepare, sampler, scores, ship
from recipes.remind.clips import WorldClip
from recipes.remind.presets import SMOKE, tiny
from recipes.remind.records import chunk_spans
from recipes.remind.sampler import Chunk, open_stream, sample_chunks
from recipes.remind.scores import score, truth_of

CPU = torch.device("cpu")


def test_the_twin_has_evolved_and_a_still_has_not() -> None:
    config = tiny()
    for id in ("test-00000", "test-00003", "test-00012", "test-00024"):
        clip = WorldClip(id, config)
        truth, part = truth_of(clip), frames_of((clip.record.clear, 13))
        last = 4 * (clip.record.hidden[0] - 1)
        twin = truth.frames[part]
        still = truth.frames[last].expand_as(twin)
        evolved, frozen = score(twin, truth, part, last), score(still, truth, part, last)
        assert evolved.evolution == 1.0 and frozen.evolution == 0.0
        assert evolved.state_evolution > 0.9 and abs(frozen.state_evolution) < 0.1
        assert evolved.state_error < 0.01 < frozen.state_error and evolved.found == 1.0
        assert math.isnan(evolved.psnr) and 10 < frozen.psnr < 30  # of equal frames none can be told
        half = score(twin // 2 + still // 2, truth, part, last)
        assert 0.4 < half.evolution < 0.6


def test_a_whole_turn_is_no_error() -> None:
    """Of what goes round no frame tells the turns."""
    clip = next(c for i in range(60) if (c := WorldClip(f"test-{i:05d}", tiny())).interrupted.event.kind == "orbit")
    truth = truth_of(clip)
    assert truth.process is not None
    start = dataclasses.replace(truth.process, start=truth.process.start + 4 * math.pi)  # type: ignore[call-arg]
    turned = score(truth.frames[37:], truth._replace(process=start), slice(37, 49), 12)
    assert turned.state_error < 0.03


def test_the_mask_is_what_moves() -> None:
    clip = WorldClip("test-00000", tiny())
    truth = truth_of(clip)
    mask = moving_pixels(clip.interrupted.event, clip.seconds, 64)
    still = (truth.frames != truth.frames[:1]).any(-1).any(0) & ~mask.any(0)
    assert 0.005 < mask.float().mean() < 0.5 and still.float().mean() < 0.1  # shadows and edges alone


def test_frames_of_latent_frames() -> None:
    spans = chunk_spans(tiny())
    joined = [i for span in spans for i in range(49)[frames_of(span)]]
    assert joined == list(range(49)) and frames_of((0, 1)) == slice(0, 1)


def test_each_clip_is_measured_once_beside_controls(config, capsys) -> None:
    command = evaluate.Evaluate(config, clips=3, keep=1, at_once=2)
    assert evaluate.main(command) == 0
    own, beside = config.out / "measured.jsonl", config.folder / "controls.jsonl"
    lines = own.read_text().splitlines(), beside.read_text().splitlines()
    assert [len(x) for x in lines] == [1 + 3 * 4, 1 + 3 * 6]
    rows = [json.loads(line) for some in lines for line in some[1:]]
    frozen = [row for row in rows if row["condition"] == "recovery / frozen"]
    assert all(row["evolution"] == 0.0 for row in frozen) and {row["by"] for row in frozen} == {
        "occluder", "lights-off", "look-away",
    }  # fmt: skip
    for row in frozen:
        clip = WorldClip(row["id"], config)
        truth, part, last = truth_of(clip), frames_of((clip.record.clear, 13)), 4 * (clip.record.hidden[0] - 1)
        still = score(truth.frames[last].expand_as(truth.frames[part]), truth, part, last)
        assert row["psnr"] == still.psnr and row["state_error"] == still.state_error
    for row in rows:
        streamed = row["condition"] in ("recovery", "recovery / base")
        assert (row["attends_before"] is None) != streamed
        assert (row["attends_mirror"] is None) != (streamed and row["by"] == "look-away")
        assert not streamed or 0 < row["attends_before"] + row["attends_newest"] < 1
    kept = {p.name for p in (config.out / "evaluation" / "recovery").iterdir()}
    assert kept == {"test-00000.mp4", "test-00000.png"}
    assert len(read_video(config.out / "evaluation" / "plain" / "test-00000.mp4").frames) == 9  # the model's length
    own.write_text("\n".join(lines[0][:-1]) + "\n")  # one is missing
    assert evaluate.main(command) == 0
    assert own.read_text().splitlines() == lines[0] and beside.read_text().splitlines() == lines[1]
    shown = capsys.readouterr().out
    assert "recovery: look-away" in shown and "base, bidirectional" in shown and "plain image-to-video" in shown
    with pytest.raises(InputError, match="sampling_steps"):
        evaluate.evaluate(dataclasses.replace(command, config=dataclasses.replace(config, sampling_steps=2)))


def test_a_run_is_shipped_and_measured_as_it_is_stored(config, tmp_path) -> None:
    made = ship.Ship(config, clips=1, keep=0, name="remind-tiny", trained_by="train --now", to=tmp_path / "shipped")
    with pytest.raises(InputError, match="Give --name, one of remind-tiny"):
        ship.main(dataclasses.replace(made, name="remind-huge"))
    assert ship.main(made) == 0
    verify_sums(tmp_path / "shipped")
    card = (tmp_path / "shipped" / "README.md").read_text()
    assert "on 1 clips of the test split" in card and "| remind-tiny |" in card and "`train --now`" in card
    stored, run = (load_backbone(config, trained=at).transformer for at in (tmp_path / "shipped", config.out))
    weight, same = stored.blocks[0].attn1.to_q.weight, run.blocks[0].attn1.to_q.weight
    assert torch.equal(weight, same.half().float()) and not torch.equal(weight, same)
    elsewhere = dataclasses.replace(config, out=tmp_path / "elsewhere")
    with pytest.raises(InputError, match="no trained transformer in .*elsewhere; run this recipe's train first"):
        evaluate.evaluate(evaluate.Evaluate(elsewhere, clips=1))
    flags = {"image": SMOKE["image"], "prompts": ("a red ball",), "chunks": 2, "weights": str(tmp_path / "shipped")}
    assert generate.main(generate.Generate(elsewhere, **flags)) == 0
    assert (elsewhere.out / "generated.poses.npz").exists()


def test_what_is_given_stays_and_the_rest_follows_the_seed(config) -> None:
    backbone = load_backbone(config, trained=config.out)
    clips = evaluate.open_clips(config)
    latents, cameras = clips.load(["test-00000", "test-00001"])
    spans = chunk_spans(config)
    chunks = [Chunk(["a", "b"], b - a, latents[:, :, a:b] if b <= 10 else None) for a, b in spans]

    def roll(rows: slice, seeds: list[int], **changes: object) -> torch.Tensor:
        own = dataclasses.replace(config, **changes)
        at = Cameras(cameras.c2w[rows], cameras.intrinsics[rows])
        positions = sampler.load_cameras(config, backbone, config.out)
        stream = open_stream(own, backbone, positions, seeds, at, (4, 4), 13)
        mine = [
            Chunk(c.prompts[rows], c.frames, None if c.conditioning is None else c.conditioning[rows]) for c in chunks
        ]
        return sample_chunks(stream, mine)[0]

    both = roll(slice(0, 2), [1, 2])
    assert torch.equal(both[:, :, :10], latents[:, :, :10]) and not torch.equal(both[:, :, 10:], latents[:, :, 10:])
    torch.testing.assert_close(both[1:], roll(slice(1, 2), [2]), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(both[1:], roll(slice(1, 2), [3]))
    torch.testing.assert_close(both, roll(slice(0, 2), [1, 2], text_length=512), rtol=1e-3, atol=1e-4)
    forgot = roll(slice(0, 2), [1, 2], cache_frames=3)  # the cache has room for the newest chunk alone
    assert not torch.allclose(both[:, :, 10:], forgot[:, :, 10:])


@pytest.mark.parametrize("hidden", [(4, 7), (4, 9), (5, 8), (3, 7)])  # chunks begin at 1, 4, 7, 10
def test_without_the_past_nothing_from_before_the_interruption_is_known(config, monkeypatch, hidden) -> None:
    clips, id, made = evaluate.open_clips(config), "test-00000", {}
    load = clips.load
    for changed in (False, True):

        def other(ids: list[str], change: bool = changed) -> tuple[torch.Tensor, Cameras]:
            latents, cameras = load(ids)
            latents[:, :, : hidden[0]] += change
            return latents, cameras

        monkeypatch.setattr(clips, "load", other)
        backbone = load_backbone(config, trained=config.out)
        positions = sampler.load_cameras(config, backbone, config.out)
        evaluator = evaluate.Evaluator(evaluate.Evaluate(config, clips=5), clips, backbone, positions)
        for who in ("", "without the past"):
            made[who, changed] = evaluator._recover([id], who, hidden)[0][:, :, hidden[1] :]
    assert torch.equal(made["without the past", False], made["without the past", True])
    assert not torch.allclose(made["", False], made["", True])
    assert not torch.allclose(made["", False], made["without the past", False])


def test_another_mode_of_cameras_is_refused(config) -> None:
    with pytest.raises(InputError, match="--cameras phase, not full"):
        evaluate.evaluate(evaluate.Evaluate(dataclasses.replace(config, cameras="full"), clips=1))
    with pytest.raises(InputError, match="prepare"):
        evaluate.open_clips(dataclasses.replace(config, banks=config.out))


def test_own_videos_are_held_against_their_twins(config, tmp_path) -> None:
    video = torch.arange(49, dtype=torch.uint8)[:, None, None, None].expand(49, 32, 32, 3) * 5
    write_video(tmp_path / "grey.mp4", video, 8.0)
    (tmp_path / "captions.csv").write_text("video,caption\ngrey.mp4,it gets brighter\n")
    own = dataclasses.replace(config, out=tmp_path / "run", banks=tmp_path)
    own.out.mkdir()
    for part in ("transformer", "cameras"):
        (own.out / part).symlink_to(config.out / part)
    given = {"videos": tmp_path, "captions": tmp_path / "captions.csv", "into": "test"}
    assert prepare.main(prepare.Prepare(own, **given)) == 0
    run = evaluate.evaluate(evaluate.Evaluate(own, clips=5, keep=0))
    row = run["recovery", "grey.mp4"]
    assert row.process == "video" and math.isnan(row.state_error) and math.isfinite(row.psnr)


def test_a_difference_is_between_the_same_clips() -> None:
    def run(shift: float) -> dict:
        values = {"psnr": 1.0, "evolution": 0.0, "state_evolution": 0.0, "state_error": 0.0, "found": 1.0}
        rows = [
            evaluate.Row(f"c{i}", "recovery", "occluder", "fill", **{**values, "psnr": i + shift}) for i in range(9)
        ]
        return {(row.condition, row.id): row for row in rows}

    runs = select({"a": [run(2.0)]}, lambda row: row.by == "occluder")["a"]
    less = intervals(scores.MEASURES, runs, "recovery", ([run(0.5)], "recovery"))["PSNR, dB"]
    assert less.value == less.low == less.high == 1.5
    nothing = select({"a": [run(2.0)]}, lambda row: row.by == "fog")["a"]
    assert math.isnan(intervals(scores.MEASURES, nothing, "recovery")["PSNR, dB"].value)
