"""MemLearner's recipe: chunks of long videos, batches, training that resumes, rollouts, comparisons."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch

from memkit.bank import MemoryBank
from memkit.cameras import Cameras
from memkit.errors import InputError
from memkit.flow import add_noise
from memkit.known import known_frames
from memkit.pose_files import read_poses, write_poses
from memkit.video import read_video, write_video
from memkit.worlds.rooms import Room
from recipes.file_videos import cropped
from recipes.launch import launch
from recipes.memlearner import claims, comparisons, evaluate, generate, prepare, report, train
from recipes.memlearner.comparisons import Row, Run, clip_of, score, truth
from recipes.memlearner.data import Batch, Target, TrainingSet, Videos
from recipes.memlearner.methods import camera_encoders, load_method, make_method, start_from
from recipes.memlearner.presets import PRESETS, Config, MethodName, tiny
from recipes.memlearner.step import losses
from recipes.memlearner.tables import tables
from recipes.memlearner.videos import RoomVideo, chunk_id, frames_id, room_names
from recipes.rows import read_rows
from recipes.tables import write_tables

CHUNKS = 3


@pytest.fixture(scope="module")
def config(random_folder, tmp_path_factory) -> Config:
    out = tmp_path_factory.mktemp("rooms")
    made = dataclasses.replace(
        tiny(), model=str(random_folder), out=out, banks=out, device="cpu", layers=1, batch=2, steps=4, save_every=2,
        log_every=1, warmup=1, text_length=120, sampling_steps=1, video_chunks=CHUNKS, train_videos=2, test_videos=2,
        frames=3, chunks=2,
    )  # fmt: skip
    assert prepare.main(prepare.Prepare(made)) == 0
    return made


@pytest.fixture(scope="module")
def bank(config: Config) -> MemoryBank:
    return MemoryBank.open(config.folder / "train")


def test_a_bank_holds_chunks_that_share_a_frame(config, bank) -> None:
    names = room_names("train", 2)
    assert names == ["train-00000", "train-00001-dynamic"]
    wanted = {f(name, i) for name in names for i in range(CHUNKS) for f in (chunk_id, frames_id)}
    assert set(bank.ids) == wanted and set(bank.sources) == set(names)
    for name in names:
        for i in range(1, CHUNKS):
            before, after = (bank.clip(frames_id(name, j)) for j in (i - 1, i))
            assert torch.equal(before.latents[:, -1], after.latents[:, 0])
            assert before.cameras is not None and after.cameras is not None
            assert torch.equal(before.cameras.c2w[-1], after.cameras.c2w[0])
    test = MemoryBank.open(config.folder / "test").sources
    assert set(test) == {"test-00000", "test-00000-dynamic"}
    assert prepare.main(prepare.Prepare(config)) == 0 and set(MemoryBank.open(bank.path).ids) == wanted


def test_captions_tell_the_camera_s_motion_and_nothing_of_the_room(bank) -> None:
    for caption in bank.captions:
        assert "room" in caption and not any(word in caption for word in ("wall", "pillar", "table", "person"))


def test_the_twin_with_people_walks_the_same_way(config) -> None:
    form = train.load_backbone(config, torch.device("cpu")).video_format
    quiet, busy = (RoomVideo(name, CHUNKS, form) for name in ("test-00004", "test-00004-dynamic"))
    for a, b in zip(quiet.chunks(), busy.chunks(), strict=True):
        assert torch.equal(a.cameras.c2w, b.cameras.c2w)
    assert not Room.named("test-00004").movers and Room.named("test-00004-dynamic").movers


def videos_in(folder: Path, frames: int = 20) -> Path:
    folder.mkdir()
    video = torch.randint(0, 256, (frames, 40, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    write_video(folder / "walk.mp4", video, 8.0)
    write_video(folder / "lost.mp4", video, 8.0)
    c2w = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    c2w[:, 0, 3] = torch.arange(frames)
    write_poses(folder / "walk.npz", Cameras(c2w, torch.tensor([0.8, 1.0, 0.5, 0.5]).double().expand(frames, 4)))
    captions = folder / "captions.csv"
    captions.write_text("video,caption\nwalk.mp4,a walk\nlost.mp4,no poses\n")
    return captions


def test_own_videos_bring_their_poses(config, tmp_path, capsys) -> None:
    captions = videos_in(tmp_path / "mine")
    mine = dataclasses.replace(config, out=tmp_path, banks=tmp_path)
    command = prepare.Prepare(mine, videos=tmp_path / "mine", captions=captions)
    assert prepare.main(command) == 1
    assert "lost.mp4" in capsys.readouterr().err
    bank = MemoryBank.open(tmp_path / "train")
    assert bank.ids == [f("walk.mp4", i) for i in range(2) for f in (chunk_id, frames_id)]
    cameras = bank.clip(chunk_id("walk.mp4", 1)).cameras
    assert cameras is not None and cameras.c2w[:, 0, 3].tolist() == [8.0, 12.0, 16.0]
    # 64×40 scaled to 51×32 and cropped to 32×32: across, the view is narrower
    torch.testing.assert_close(cameras.intrinsics[0], torch.tensor([0.8 * 1.6, 1.0, 0.5, 0.5]).double())
    assert prepare.main(dataclasses.replace(command, skip_bad=True)) == 0 and len(MemoryBank.open(bank.path)) == 4


def test_cropping_keeps_the_rays_of_pixels() -> None:
    lens = torch.tensor([0.9, 1.2, 0.45, 0.55]).double()
    after = cropped(lens, (40, 64), (32, 32))
    x, y = 0.1, -0.2  # of a ray, at depth 1
    before = torch.tensor([(lens[0] * x + lens[2]) * 64, (lens[1] * y + lens[3]) * 40])
    scale = max(32 / 40, 32 / 64)
    shift = torch.tensor([(64 * scale - 32) / 2, (40 * scale - 32) / 2])
    torch.testing.assert_close(
        torch.stack([(after[0] * x + after[2]) * 32, (after[1] * y + after[3]) * 32]), before * scale - shift
    )


def test_a_batch_is_a_function_of_its_step_and_shared_by_processes(config, bank) -> None:
    data = TrainingSet([bank], config, "chunks")
    pasts = set()
    for step in range(12):
        whole = TrainingSet([bank], dataclasses.replace(config, batch=4), "chunks").batch(step)
        parts = [data.batch(step, rank, 2) for rank in range(2)]
        for name in ("latents", "noise", "query_noise", "sigma"):
            joined = torch.stack([getattr(part, name) for part in parts], dim=1).flatten(0, 1)
            assert torch.equal(getattr(whole, name), joined)
        assert [c for pair in zip(*(p.captions for p in parts), strict=True) for c in pair] == whole.captions
        pasts.add(len(whole.history))
        assert not torch.equal(whole.noise, whole.query_noise)
    assert pasts == {0, 3, 6}  # latent frames of 0, 1 and 2 chunks


@pytest.mark.parametrize("keeps", ["chunks", "frames"])
def test_the_past_is_what_came_before(bank, keeps) -> None:
    videos = Videos(bank)
    history = videos.history([Target("train-00000", 2, 2)], keeps)
    target = bank.clip(chunk_id("train-00000", 2))
    assert target.cameras is not None and history.cameras is not None
    assert torch.equal(history.cameras.c2w[0, -1], target.cameras.c2w[0])  # its last frame is the chunk's first
    assert history.times == ((0, 1, 2, 2, 3, 4) if keeps == "chunks" else (0, 1, 2, 3, 4))
    named = chunk_id if keeps == "chunks" else frames_id
    first = bank.clip(named("train-00000", 0)).latents.float()
    assert torch.equal(history.latents[0, :, :3], first)


def test_a_bank_of_something_else_is_refused(config, tmp_path) -> None:
    with MemoryBank.create(tmp_path / "bank") as other:
        other.add("a", torch.zeros(16, 3, 4, 4), "a clip")
    with pytest.raises(InputError, match="prepare"):
        TrainingSet([other], config, "chunks")


def trained(config: Config, out: Path, **changes: object) -> dict[str, torch.Tensor]:
    own = dataclasses.replace(config, out=out, **changes)
    assert train.main(train.Command(own)) == 0
    return torch.load(out / "checkpoint.pt", weights_only=True)["modules"]


METHODS: tuple[MethodName, ...] = ("learned", "cam", "window", "framepack", "separate", "none")


@pytest.mark.parametrize("method", METHODS)
def test_training_moves_everything_and_resumes_to_the_bit(config, tmp_path, method) -> None:
    whole = trained(config, tmp_path / "whole", method=method)
    backbone = train.load_backbone(config, torch.device("cpu"))
    own = dataclasses.replace(config, method=method)
    start = {f"method.{k}": v for k, v in make_method(own, backbone).state_dict().items()}
    start |= {f"transformer.{k}": v for k, v in backbone.transformer.state_dict().items()}
    assert start.keys() == whole.keys()
    still = {name for name, value in start.items() if torch.equal(value, whole[name])}
    own_head = {name for name in still if "module.wan" in name}  # used in pre-training alone
    assert still == own_head and (not still or method == "separate")

    stopped = dataclasses.replace(config, out=tmp_path / "parts", method=method)
    real = train.Training.save

    def crash(self, step, about) -> None:
        real(self, step, about)
        if step == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train.Training, "save", crash)
        train.main(train.Command(stopped))
    parts = trained(config, tmp_path / "parts", method=method)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_the_loss_is_on_what_is_made(config, bank) -> None:
    backbone = train.load_backbone(config, torch.device("cpu"))
    own = dataclasses.replace(config, method="learned")
    method = make_method(own, backbone)
    data, text = TrainingSet([bank], own, method.keeps), train.TextCache(backbone, 512)
    batch = next(b for b in map(data.batch, range(20)) if len(b.history))

    def loss(noise: torch.Tensor) -> torch.Tensor:
        return losses(own, backbone, method, text, dataclasses.replace(batch, noise=noise), data)

    before, noise = loss(batch.noise), batch.noise.clone()
    noise[:, :, 0] += 1.0
    torch.testing.assert_close(loss(noise), before)
    noise[:, :, 1] += 1.0
    assert not torch.allclose(loss(noise), before)


def test_checkpointing_gives_the_same_gradients(config, bank) -> None:
    backbone = train.load_backbone(config, torch.device("cpu"))
    for name in ("learned", "cam", "separate"):
        own = dataclasses.replace(config, method=name)
        method = make_method(own, backbone)
        data, text = TrainingSet([bank], own, method.keeps), train.TextCache(backbone, 512)
        batch = next(b for b in map(data.batch, range(20)) if len(b.history))
        modules, found = torch.nn.ModuleDict({"backbone": backbone.transformer, "method": method}), []
        for checkpointing in (False, True):
            modules.zero_grad(set_to_none=True)
            with train.prepared(backbone, 512, checkpointing):
                losses(own, backbone, method, text, batch, data)
            found.append({n: p.grad.clone() for n, p in modules.named_parameters() if p.grad is not None})
        assert found[0].keys() == found[1].keys()
        for n, grad in found[0].items():
            torch.testing.assert_close(grad, found[1][n], rtol=1e-4, atol=1e-6)


def test_a_run_starts_from_another_run_s_cameras(config, tmp_path) -> None:
    trained(config, tmp_path / "base", method="none", steps=2)
    own = dataclasses.replace(config, method="learned", start=tmp_path / "base")
    backbone = train.load_backbone(own, torch.device("cpu"), own.start)
    method = make_method(own, backbone)
    start_from(method, tmp_path / "base" / "method")
    base = load_method(dataclasses.replace(config, method="none"), backbone, tmp_path / "base" / "method")
    assert torch.equal(method.query.cameras.exact.layers[0].weight, base.context.cameras.exact.layers[0].weight)
    assert method.query.cameras.exact.layers[0].weight.any()
    with pytest.raises(InputError, match="method"):
        load_method(own, backbone, tmp_path / "base" / "method")
    with pytest.raises(InputError, match="no method"):
        start_from(method, tmp_path)


@pytest.fixture(scope="module")
def walks(config, tmp_path_factory) -> dict[str, Path]:
    """Banks of one's own videos, whose poses are estimated or not known."""
    folder, found = tmp_path_factory.mktemp("walks"), {}
    captions = videos_in(folder / "videos")
    for annotation in ("estimated", "none"):
        own = dataclasses.replace(config, out=folder / annotation, banks=None)
        command = prepare.Prepare(own, folder / "videos", captions, annotation=annotation, skip_bad=True)
        assert prepare.main(command) == 0
        found[annotation] = own.out / "train"
    return found


def test_banks_say_how_their_poses_are_known(config, walks) -> None:
    estimated, unknown = (MemoryBank.open(walks[name]) for name in ("estimated", "none"))
    assert len(estimated) == 4 and len(unknown) == 8  # lost.mp4 has no poses
    assert all(unknown.clip(id).cameras is None for id in unknown.ids)
    banks = [MemoryBank.open(config.folder / "train"), estimated, unknown]
    known = dataclasses.replace(config, annotations=("exact", "estimated", "none"))
    data = TrainingSet(banks, known, "chunks")
    batches = [data.batch(step) for step in range(30)]
    counts = {name: sum(b.annotation == name for b in batches) for name in known.annotations}
    assert min(counts.values()) > 0
    for batch in batches:
        assert (batch.cameras is None) == (batch.annotation == "none")
        assert not len(batch.history) or (batch.history.cameras is None) == (batch.annotation == "none")
    with pytest.raises(InputError, match="'none', of which"):
        TrainingSet(banks, dataclasses.replace(known, annotations=("exact", "estimated")), "chunks")
    with pytest.raises(InputError, match="no poses, by which"):
        TrainingSet(banks, dataclasses.replace(known, method="cam"), "frames")


@pytest.mark.parametrize("method", ["learned", "separate"])
def test_each_kind_of_poses_has_an_encoder_and_unknown_ones_are_zeros(config, walks, tmp_path, method) -> None:
    own = dataclasses.replace(
        config, out=tmp_path, method=method, steps=8, annotations=("exact", "estimated", "none"),
        more_banks=(walks["estimated"], walks["none"]),
    )  # fmt: skip
    kinds = [MemoryBank.open(bank) for bank in (own.folder / "train", *own.more_banks)]
    drawn = [TrainingSet(kinds, own, "chunks").batch(step).annotation for step in range(own.steps)]
    assert set(drawn) == set(own.annotations)
    assert train.main(train.Command(own)) == 0
    backbone = train.load_backbone(own, torch.device("cpu"), tmp_path)
    encoders = camera_encoders(load_method(own, backbone, tmp_path / "method"))
    for name, encoder in encoders.items():
        assert encoder.layers[0].bias.any()  # all of them start at zero
        assert encoder.layers[0].weight.any() == (name != "none")
    plain = make_method(dataclasses.replace(own, annotations=("estimated",)), backbone)
    start_from(plain, tmp_path / "method")
    assert torch.equal(camera_encoders(plain)["estimated"].layers[0].weight, encoders["estimated"].layers[0].weight)


def test_context_frames_are_noised_each_at_its_own_level(config, bank) -> None:
    own = dataclasses.replace(config, method="window", context_noise="independent")
    data = TrainingSet([bank], own, "chunks")
    batch = next(b for b in map(data.batch, range(20)) if len(b.history))
    taken = batch.history.take(batch.history.newest(3))
    noisy, times = data.noisy(taken, batch.context_seeds)
    again, _ = data.noisy(taken, batch.context_seeds)
    assert torch.equal(noisy.latents, again.latents) and times.shape == (2, 3) and len(times.unique()) == 6
    sigma = (times / 1000)[:, None, :, None, None]
    noise = (noisy.latents - (1 - sigma) * taken.latents) / sigma
    assert abs(noise.mean()) < 0.1 and abs(noise.std() - 1) < 0.1
    alone, _ = data.noisy(taken._replace(latents=taken.latents[1:]), batch.context_seeds[1:])
    assert torch.equal(alone.latents[0], noisy.latents[1])  # so that processes may share a batch
    with pytest.raises(InputError, match="clean context"):
        trained(config, config.out / "noisy-learned", method="learned", context_noise="independent")


def test_the_window_is_trained_on_its_noisy_frames(config, bank) -> None:
    backbone = train.load_backbone(config, torch.device("cpu"))
    own = dataclasses.replace(config, method="window", context_noise="independent")
    method, text = make_method(own, backbone), train.TextCache(backbone, 512)
    data = TrainingSet([bank], own, method.keeps)
    batch = next(b for b in map(data.batch, range(20)) if len(b.history))

    def loss(config: Config, batch: Batch = batch) -> torch.Tensor:
        return losses(config, backbone, method, text, batch, data)

    clean, noisy = loss(dataclasses.replace(own, context_noise="clean")), loss(own)
    assert not torch.allclose(clean, noisy)
    other = dataclasses.replace(batch, context_seeds=[seed + 1 for seed in batch.context_seeds])
    assert not torch.allclose(loss(own, other), noisy)


def test_queries_may_have_a_loss_of_their_own(config, bank, tmp_path) -> None:
    """By what it adds to the gradients: its weight times those of the error of what the queries hold."""
    config = dataclasses.replace(config, method="learned", query="noise", query_time="clean")
    backbone = train.load_backbone(config, torch.device("cpu"))
    method, text = make_method(config, backbone), train.TextCache(backbone, 512)
    data = TrainingSet([bank], config, method.keeps)
    batch = next(b for b in map(data.batch, range(20)) if len(b.history))
    weights = dict(backbone.transformer.named_parameters())

    def gradients(made: Callable[[], object]) -> dict[str, torch.Tensor]:
        backbone.transformer.zero_grad()
        made()
        return {name: x.grad.clone() for name, x in weights.items() if x.grad is not None}

    shown = {"taken": method.choose(batch.history, batch.cameras), "text": text(batch.captions)}
    noisy = add_noise(batch.latents, batch.noise, batch.sigma)

    def own() -> None:
        with (
            method.shown(backbone.transformer, **shown, cameras=batch.cameras, noise=batch.query_noise),
            known_frames(batch.latents[:, :, :1], backbone.transformer),
        ):
            backbone.velocity(noisy, batch.sigma * 1000, shown["text"])
            (method.fetched - batch.latents).pow(2).mean().backward()
        assert method.fetched is None

    told: list[torch.Tensor] = []

    def whole(weight: float) -> Callable[[], object]:
        settings = dataclasses.replace(config, query_loss=weight)
        return lambda: told.append(losses(settings, backbone, method, text, batch, data))

    plain, both, alone = gradients(whole(0.0)), gradients(whole(0.5)), gradients(own)
    assert torch.equal(*told)  # the log tells of the prediction alone
    for name, gradient in both.items():
        torch.testing.assert_close(gradient, plain[name] + 0.5 * alone[name], atol=1e-5, rtol=1e-3)
    assert alone["proj_out.weight"].abs().max() > 1e-3
    with pytest.raises(InputError, match="'learned'"):
        trained(config, tmp_path, method="cam", query_loss=1.0)
    with pytest.raises(InputError, match="query-time clean"):
        trained(config, tmp_path, query_time="shared", query_loss=1.0)


def test_a_module_learns_alone_first(config, tmp_path) -> None:
    own = {"method": "separate", "pretrain_steps": 3, "camera_lr": 1e-3}
    begun = dataclasses.replace(config, method="separate")
    backbone = train.load_backbone(begun, torch.device("cpu"))
    start = {f"method.{name}": x for name, x in make_method(begun, backbone).state_dict().items()}
    start |= {f"transformer.{name}": x for name, x in backbone.transformer.state_dict().items()}
    alone = trained(config, tmp_path / "alone", **own, steps=0)
    moved = {name for name, x in alone.items() if not torch.equal(x, start[name])}
    assert moved and all(name.startswith("method.module.") for name in moved)
    assert any("proj_out" in name for name in moved)
    after = trained(config, tmp_path / "after", **own, steps=1)
    assert not torch.equal(after["transformer.proj_out.weight"], start["transformer.proj_out.weight"])
    log = [json.loads(line) for line in (tmp_path / "after" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [0, 1, 2, 3]
    with pytest.raises(InputError, match="'separate'"):
        trained(config, tmp_path / "no", method="learned", pretrain_steps=1)


def test_another_run_s_checkpoint_is_refused(config, tmp_path) -> None:
    trained(config, tmp_path, method="none", steps=2)
    with pytest.raises(InputError, match="lr"):
        trained(config, tmp_path, method="none", steps=2, lr=1.0)


def test_generate_follows_the_keys(config, tmp_path, capsys) -> None:
    trained(config, tmp_path, method="learned", steps=2)
    own = dataclasses.replace(config, out=tmp_path, method="learned", steps=2, budget=10_000)
    command = generate.Generate(own, room="test-00000", keys="right-2, left-3")
    assert generate.main(command) == 0
    assert "3 chunks" in capsys.readouterr().out
    video, poses = read_video(tmp_path / "generated.mp4"), read_poses(tmp_path / "generated.npz")
    assert len(video.frames) == len(poses.c2w) == 3 * 8 + 1
    torch.testing.assert_close(poses.c2w[4 * 5], poses.c2w[4 * 5 + 4])  # held at the end
    assert not torch.allclose(poses.c2w[0], poses.c2w[8])
    write_video(tmp_path / "first.mp4", video.frames[:1], 8.0)
    own_path = dataclasses.replace(
        command, room=None, keys=None, image=tmp_path / "first.mp4", poses=tmp_path / "generated.npz"
    )
    assert generate.main(own_path) == 0
    with pytest.raises(InputError, match="one of --room"):
        generate.main(dataclasses.replace(command, image=tmp_path / "first.mp4"))


def test_the_example_of_the_docs_runs(config, tmp_path, monkeypatch) -> None:
    trained(config, tmp_path, method="learned", steps=2)
    video = torch.randint(0, 256, (1, 32, 32, 3), dtype=torch.uint8)
    write_video(tmp_path / "hall.mp4", video, 8.0)
    turn = RoomVideo("test-00000", 2, train.load_backbone(config, torch.device("cpu")).video_format)
    path = [chunk.cameras for chunk in turn.chunks()]
    whole = [torch.cat([getattr(path[0], f), getattr(path[1], f)[1:]]) for f in ("c2w", "intrinsics")]
    write_poses(tmp_path / "walk.npz", Cameras(*whole))
    text = (Path(__file__).parents[2] / "docs" / "memlearner.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    smaller = {
        "runs/memlearner-wan2.1-1.3b": ".", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": config.model, "cuda": "cpu",
        "bfloat16": "float32", "hall.png": "hall.mp4", "480, 832": "32, 32", "81": "9", "80": "8",
        "2**20)": "2**20, steps=1)",
    }  # fmt: skip
    for name, instead in smaller.items():
        assert name in code
        code = code.replace(name, instead)
    code = code.replace('pipe.to("cpu")', 'pipe.to("cpu"), form')
    monkeypatch.chdir(tmp_path)
    made: dict = {"form": turn.form}
    exec(code, made)
    assert made["frames"].shape == (1, 9, 32, 32, 3) and made["i"] == 8
    assert made["rollout"].shown_times.tolist() == [[0, 1, 2]]


def test_keys_are_read_line_by_line(config, tmp_path, monkeypatch) -> None:
    trained(config, tmp_path, method="window", steps=2)
    own = dataclasses.replace(config, out=tmp_path, method="window", steps=2)
    command = generate.Generate(own, room="test-00000", keys="right-2, left-4", to=tmp_path / "whole.mp4")
    assert generate.main(command) == 0
    monkeypatch.setattr("sys.stdin", io.StringIO("right-2\n\nleft-4\n"))
    assert generate.main(dataclasses.replace(command, keys="-", to=tmp_path / "lines.mp4")) == 0
    whole, lines = (read_video(tmp_path / f"{name}.mp4").frames for name in ("whole", "lines"))
    assert torch.equal(whole, lines) and len(whole) == 3 * 8 + 1
    poses = [read_poses(tmp_path / f"{name}.npz").c2w for name in ("whole", "lines")]
    torch.testing.assert_close(poses[1], poses[0], atol=1e-9, rtol=0)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(InputError, match="No keys"):
        generate.main(dataclasses.replace(command, keys="-"))


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
    form = train.load_backbone(config, torch.device("cpu")).video_format
    for i in range(4):
        clip = clip_of("revisit", f"test-{i:05d}", config, form)
        _, cameras = truth(clip, form)
        assert torch.allclose(cameras.c2w[0], cameras.c2w[-1], atol=1e-6) and clip.past == 0
        turned = torch.einsum("fij,ij->f", cameras.c2w[:, :3, :3], cameras.c2w[0, :3, :3])
        farthest = torch.rad2deg(((turned - 1) / 2).clamp(-1, 1).acos()).max()
        assert 89.0 <= farthest <= 180.1


def test_scores_know_the_way_back_from_the_way_there(config) -> None:
    form = train.load_backbone(config, torch.device("cpu")).video_format
    clip = clip_of("revisit", "test-00000", config, form)
    real, cameras = truth(clip, form)
    rng = random.Random(0)
    noisy = (real.int() + rng.randint(5, 9)).clamp(0, 255).to(torch.uint8)
    row = score("test-00000", "revisit", noisy, real, cameras, 1)
    assert 28 < row.psnr < 40  # a constant shift of 5 to 9 grey values
    assert not row.again < 40  # on the way there too: like itself, or equal, which is NaN
    half = len(real) // 2
    turned = torch.cat([real[:half], 255 - real[half:]])
    assert score("test-00000", "revisit", turned, real, cameras, 1).again < 12


def test_presets_are_whole() -> None:
    assert set(PRESETS) == {"tiny", "wan2.1-1.3b", "wan2.2-5b"}
    for make in PRESETS.values():
        assert make().layers <= 5 and make().chunks == 9


def test_two_processes_would_share_gradients(config, tmp_path) -> None:
    """Without a past not all parts have gradients; all processes must have those of the same parameters."""
    own = dataclasses.replace(config, out=tmp_path, method="learned", chunks=0)
    backbone = train.load_backbone(own, torch.device("cpu"))
    launched = launch("cpu", "none", "test", {}, tmp_path)
    train.train(own, backbone, [MemoryBank.open(own.folder / "train")], launched)
    assert (tmp_path / "transformer" / "config.json").exists()


def test_claims_share_a_start_and_runs(config, tmp_path, capsys) -> None:
    own = dataclasses.replace(config, out=tmp_path, banks=None, steps=2)
    command = claims.Claims(own, claim="edges", seeds=(1, 2), rooms=1, base_steps=2)
    assert claims.main(command) == 0
    table = json.loads((tmp_path / "edges.json").read_text())["rooms with people"]
    names = ["learned", "learned-without-Q-P", "learned-with-Q-Q"]
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
    assert page.count("What the queries of “learned” attend to") == 2
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
        for i, name in enumerate(comparisons.test_rooms(2)):
            for comparison in comparisons.COMPARISONS:
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
    ]
