"""ReMind's recipe after training: scores, generation with interruptions, STEVO-Bench's files, claims."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from memkit.cameras import Cameras, read_poses, write_poses
from memkit.errors import InputError
from memkit.video import read_video, write_video
from recipes.common.backbones import load_whole
from recipes.remind import evaluate, film, generate, prepare, tables, train
from recipes.remind.clips import WorldClip
from recipes.remind.presets import Config, tiny
from recipes.remind.records import chunk_spans, frames_of
from recipes.remind.rolling import Part, Roller
from recipes.remind.scores import moving, score, truth_of
from recipes.remind.studies import claims, sheet, stevo
from recipes.remind.tables import cells

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config(random_folder, tmp_path_factory) -> Config:
    out = tmp_path_factory.mktemp("remind")
    made = dataclasses.replace(
        tiny(), model=str(random_folder), out=out / "run", banks=out, device="cpu", height=32, width=32, batch=1,
        steps=1, log_every=1, text_length=160, train_clips=1, test_clips=5, sampling_steps=1,
    )  # fmt: skip
    assert prepare.main(prepare.Prepare(made)) == 0
    assert train.main(train.Command(made)) == 0
    return made


@pytest.fixture(autouse=True)
def quick_intervals(monkeypatch) -> None:
    monkeypatch.setattr(tables, "RESAMPLES", 20)


# -- scores ------------------------------------------------------------------------------------------------------------


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
    clip = next(c for i in range(60) if (c := WorldClip(f"test-{i:05d}", tiny())).drawn.event.kind == "orbit")
    truth = truth_of(clip)
    assert truth.process is not None
    start = dataclasses.replace(truth.process, start=truth.process.start + 4 * math.pi)  # type: ignore[call-arg]
    turned = score(truth.frames[37:], truth._replace(process=start), slice(37, 49), 12)
    assert turned.state_error < 0.03


def test_the_mask_is_what_moves() -> None:
    clip = WorldClip("test-00000", tiny())
    truth = truth_of(clip)
    mask = moving(clip.drawn.event, clip.seconds, 64)
    still = (truth.frames != truth.frames[:1]).any(-1).any(0) & ~mask.any(0)
    assert 0.005 < mask.float().mean() < 0.5 and still.float().mean() < 0.1  # shadows and edges alone


def test_frames_of_latent_frames() -> None:
    spans = chunk_spans(tiny())
    joined = [i for span in spans for i in range(49)[frames_of(span)]]
    assert joined == list(range(49)) and frames_of((0, 1)) == slice(0, 1)


# -- evaluation --------------------------------------------------------------------------------------------------------


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


def test_what_is_given_stays_and_the_rest_follows_the_seed(config) -> None:
    backbone = load_whole(config.model, 0, CPU, config.out)
    clips = evaluate.open_clips(config)
    latents, cameras = clips.load(["test-00000", "test-00001"])
    spans = chunk_spans(config)
    parts = [Part(["a", "b"], b - a, latents[:, :, a:b] if b <= 10 else None) for a, b in spans]

    def roll(rows: slice, seeds: list[int], **changes: object) -> torch.Tensor:
        own = dataclasses.replace(config, **changes)
        at = Cameras(cameras.c2w[rows], cameras.intrinsics[rows])
        positions = train.load_cameras(config, backbone, config.out)
        roller = Roller(own, backbone, positions, seeds, at, (4, 4), 13)
        mine = [Part(p.prompts[rows], p.frames, None if p.known is None else p.known[rows]) for p in parts]
        return roller.roll(mine)[0]

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
        backbone = load_whole(config.model, 0, CPU, config.out)
        positions = train.load_cameras(config, backbone, config.out)
        bench = evaluate.Evaluate(config, clips=5).bench(clips, backbone, positions)
        for who in ("", "without the past"):
            made[who, changed] = bench._recovered([id], who, hidden).latents[:, :, hidden[1] :]
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

    less = cells([run(2.0)], "recovery", "occluder", less=([run(0.5)], "recovery"))["PSNR, dB"]
    assert less.value == less.low == less.high == 1.5
    assert math.isnan(cells([run(2.0)], "recovery", "fog")["PSNR, dB"].value)


# -- generation --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def picture(config) -> Path:
    file = config.folder / "first.mp4"
    frames = WorldClip("test-00000", config).both()[1].frames[:30]
    write_video(file, frames, 8.0)
    return file


def test_generate_from_an_image_with_prompts_and_keys(config, picture, capsys) -> None:
    command = generate.Generate(config, image=picture, prompts=("a tank", "a tank fills"), keys="right-2, left-4")
    assert generate.main(command) == 0
    assert "3 chunks, 1 latent frames given" in capsys.readouterr().out
    video, poses = read_video(config.out / "generated.mp4"), read_poses(config.out / "generated.latents.npz")
    assert len(video.frames) == 25 and len(poses.c2w) == 7 and (config.out / "generated.png").exists()
    assert not torch.allclose(poses.c2w[0], poses.c2w[2]) and torch.allclose(poses.c2w[0], poses.c2w[4])
    write_poses(config.out / "frames.npz", Cameras(poses.c2w[:1].repeat(10, 1, 1), poses.intrinsics[:1].repeat(10, 1)))
    posed = dataclasses.replace(command, keys=None, poses=config.out / "frames.npz", prompts=("a tank",))
    assert generate.main(posed) == 0 and len(read_video(config.out / "generated.mp4").frames) == 4 * 3 + 1


def test_generate_goes_on_from_a_video_past_its_length(config, picture) -> None:
    command = generate.Generate(
        dataclasses.replace(config, cache_frames=6), video=picture, known_latents=6, prompts=("a tank",), chunks=8,
        read="packed", read_frames=3, to=config.out / "long.mp4",
    )  # fmt: skip
    assert generate.main(command) == 0
    assert len(read_video(config.out / "long.mp4").frames) == 4 * 21 + 1


@pytest.mark.parametrize("event", ["occluder", "lights-off", "look-away", "camera-off", "fog"])
def test_an_interruption_is_given_over_the_last_frame(config, event) -> None:
    frame = torch.randint(1, 256, (32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    clip = film.hidden(event, frame, 24, 8.0)
    differ = (clip.video != frame).flatten(1).any(1)
    assert clip.spans.degraded == (1, 25) and differ[2:24].all() and not differ[0] and not differ[25:].any()


def test_generate_with_an_interruption(config, picture) -> None:
    command = generate.Generate(
        config, image=picture, prompts=("a tank",), event="lights-off", event_chunks=(2, 4), to=config.out / "dark.mp4"
    )
    assert generate.main(command) == 0
    plain = dataclasses.replace(command, event=None, event_chunks=None, to=config.out / "light.mp4")
    assert generate.main(plain) == 0
    dark, light = (read_video(config.out / f"{name}.mp4").frames.float() for name in ("dark", "light"))
    assert len(dark) == len(light) == 49
    torch.testing.assert_close(dark[:12], light[:12], rtol=0, atol=3)
    assert (dark[16:34] - light[16:34]).abs().mean() > 3


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"image": None}, "one of --image and --video"),
        ({"prompts": ()}, "--prompts"),
        ({"prompts": ("a",) * 9}, "9 prompts for 5 chunks"),
        ({"keys": "w-1", "poses": Path("x.npz")}, "one of --keys"),
        ({"event": "fog"}, "go together"),
        ({"event": "look-away", "event_chunks": (2, 3), "keys": "w-1"}, "turns the camera itself"),
        ({"event": "fog", "event_chunks": (3, 5)}, "--event-chunks 3 5"),
        ({"event": "fog", "event_chunks": (0, 2)}, "--event-chunks 0 2"),
        ({"chunks": 1}, "make more chunks"),
    ],
)
def test_bad_requests_are_told(config, picture, changes, told) -> None:
    command = dataclasses.replace(generate.Generate(config, image=picture, prompts=("a tank",)), **changes)
    with pytest.raises(InputError, match=told):
        generate.main(command)


# -- STEVO-Bench -------------------------------------------------------------------------------------------------------

TASK = """
prompts:
  video_WM: water fills a glass while a hand hides it
  camera_WM: water fills a glass
camera_control: "right-2, left-2"
initial_frame: frames/glass.png
"""


def tasks_in(folder: Path, picture: Path) -> Path:
    from PIL import Image

    (folder / "frames").mkdir(parents=True)
    (folder / "scalar").mkdir()
    image = Image.fromarray(read_video(picture).frames[0].numpy())
    image.save(folder / "frames" / "glass.png")
    (folder / "scalar" / "glass.yaml").write_text(TASK)
    (folder / "plain.yml").write_text("id: still life\nprompts: {video_WM: a bowl of fruit}\n")
    image.save(folder / "plain.png")
    return folder


def test_stevo_tasks_are_answered_and_gone_on_with(config, picture, tmp_path, capsys) -> None:
    folder = tasks_in(tmp_path / "tasks", picture)
    plain, glass = stevo.read_tasks(folder)
    assert (plain.id, plain.path, plain.camera_prompt) == ("still life", "", "a bowl of fruit")
    assert (glass.id, glass.path) == ("scalar/glass", "right-2, left-2")
    assert glass.video_prompt != glass.camera_prompt == "water fills a glass"
    command = stevo.Stevo(config, tasks=folder)
    assert stevo.main(command) == 0
    out = config.out / "stevo"
    made = json.loads((out / stevo.OUTPUT_MAP).read_text())
    assert made == {"still life": "still_life.mp4", "scalar/glass": "scalar_glass.mp4"}
    assert len(read_video(out / made["scalar/glass"]).frames) == 4 * 6 + 1  # as long as its path, in whole chunks
    assert len(read_video(out / made["still life"]).frames) == config.frames
    (out / "still_life.mp4").unlink()
    kept = (out / "scalar_glass.mp4").stat().st_mtime_ns
    assert stevo.main(command) == 0
    assert (out / "still_life.mp4").exists() and (out / "scalar_glass.mp4").stat().st_mtime_ns == kept
    assert "2 tasks, 1 made now" in capsys.readouterr().out
    with pytest.raises(InputError, match="--tasks"):
        stevo.main(dataclasses.replace(command, tasks=None))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("camera_control: w-1", "prompts is missing"),
        ("prompts: a glass", "prompts is str"),
        ("prompts: {camera_WM: a}", "prompts.video_WM is missing"),
        ("prompts: {video_WM: 3}", "prompts.video_WM is 3"),
        ("prompts: {video_WM: a}\ncamera_control: jump-3", "camera_control: Item 1"),
        ("prompts: {video_WM: a}", "initial_frame is missing"),
        ("prompts: {video_WM: a}\nimage: gone.png", "image names gone.png"),
        ("- a", "the task is list"),
        ("prompts: {video_WM: [", "as YAML"),
    ],
)
def test_bad_tasks_name_file_and_field(tmp_path, text, told) -> None:
    (tmp_path / "task.yaml").write_text(text)
    with pytest.raises(InputError, match=r"task\.yaml.*" + told):
        stevo.read_tasks(tmp_path)


def test_tasks_must_differ(tmp_path, picture) -> None:
    with pytest.raises(InputError, match="holds no task"):
        stevo.read_tasks(tmp_path)
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(f"id: same\nimage: {picture}\nprompts: {{video_WM: a}}\n")
    with pytest.raises(InputError, match="the id 'same' both"):
        stevo.read_tasks(tmp_path)
    task = stevo.Task("a b", picture, "a", "a", ())
    with pytest.raises(InputError, match="would both be"):
        stevo.check_names([task, dataclasses.replace(task, id="a/b")])


# -- claims ------------------------------------------------------------------------------------------------------------


def test_a_name_stands_for_one_run_in_all_claims() -> None:
    named: dict[str, set[str]] = {}
    for claim in ("evolution", "parts", "cameras", "forgetting"):
        for name, changes in claims.variants(claim).items():
            named.setdefault(name, set()).add(repr(dataclasses.replace(tiny(), **changes)))
    assert all(len(settings) == 1 for settings in named.values()) and len(named) == 8
    assert len({next(iter(settings)) for settings in named.values()}) == 8
    folders = {claims.run_of(tiny(), name, {}, 1).out for name in named}
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
    evaluate.evaluate(evaluate.Evaluate(claims.run_of(own, "remind", {}, 1), clips=1), ("recovery",))
    shown = sheet.Sheet(own, claim="forgetting", clips=1)
    assert sheet.main(shown) == 0
    assert Image.open(tmp_path / "recovery.png").height > 3 * 96  # the twin, the base model, the run
    with pytest.raises(InputError, match=r"test-00001\.mp4"):
        sheet.main(dataclasses.replace(shown, clips=2))


def run_of_rows(claim: str, shift: float) -> dict:
    """Two clips of each condition that a claim measures, with evolution ``shift``, and thrice it in the dark."""
    values = {"psnr": 20.0, "state_evolution": shift, "state_error": 0.1, "found": 1.0}
    kinds = {"look-away": shift, "lights-off": 3 * shift}
    conditions = (*claims.conditions(claim), *evaluate.CONTROLS, *evaluate.PLAIN_CONTROLS)
    rows = [evaluate.Row(by, c, by, "fill", **values, evolution=kinds[by]) for c in conditions for by in kinds]
    return {(row.condition, row.id): row for row in rows}


@pytest.mark.parametrize("claim", ["evolution", "parts", "cameras"])
def test_a_claim_compares_with_what_is_removed(claim) -> None:
    names = list(claims.variants(claim))
    found = {name: [run_of_rows(claim, 0.1 * i)] * 2 for i, name in enumerate(names)}
    made = claims.report(claim, found)
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
    assert list(whole) == [*names, *forgetful, *(c.removeprefix("recovery / ") for c in evaluate.CONTROLS)]


@pytest.mark.parametrize("claim", ["evolution", "forgetting"])
def test_what_training_changed_is_told_against_the_base_model_in_the_same_mode(claim) -> None:
    def run(i: int) -> dict:
        base = {"recovery / base": 5.0, "plain / base": 3.0, "plain / base, bidirectional": 2.0}
        own = {"recovery": 10.0, "plain": 20.0, "plain / bidirectional": 30.0, tables.FORGETFUL: 1.0}
        psnr = {c: value + i * (c in own) for c, value in (base | own).items()}
        rows = run_of_rows(claim, 0.0).items()
        return {key: dataclasses.replace(row, psnr=psnr.get(row.condition, 0.0)) for key, row in rows}

    made = claims.report(claim, {name: [run(i)] * 3 for i, name in enumerate(claims.variants(claim))})
    plain = {name: row["PSNR, dB"].value for name, row in made["plain, less base"].items()}
    wanted = {"remind": 17.0, "remind, bidirectional": 28.0}
    if claim == "evolution":
        wanted |= {"causal, no curriculum": 18.0, "causal, no curriculum, bidirectional": 29.0}
        assert [row["PSNR, dB"].value for row in made["less base"].values()] == [5.0, 6.0]
        assert [row["PSNR, dB"].value for row in made["less without the past"].values()] == [9.0, 9.0]
    assert plain == wanted
