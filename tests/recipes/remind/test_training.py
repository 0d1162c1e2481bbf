"""ReMind's recipe: interrupted clips and twins, batches of frame graphs, training that resumes, what switches do."""

from __future__ import annotations

import dataclasses
import json
import random
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from memkit.banks import MemoryBank
from memkit.banks.captions import Row
from memkit.cameras import Cameras, write_poses
from memkit.errors import InputError
from memkit.frame_graph import FrontierContinuation, NodeDrop, NoisyMemory
from memkit.injectors import TeacherForcing
from memkit.interruptions import Fog
from memkit.video import write_video
from recipes.common.backbones import load_whole
from recipes.common.padded_text import TextCache, prepared
from recipes.remind import prepare, records, train
from recipes.remind.clips import FileClip, WorldClip
from recipes.remind.data import TrainingSet, clip_graph, curriculum, drawn_graph
from recipes.remind.presets import PRESETS, Config, tiny
from recipes.remind.records import chunk_spans, frames_of, twin_of
from tests.helpers.training_runs import finished, stop_once_saved

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config(random_folder, tmp_path_factory) -> Config:
    out = tmp_path_factory.mktemp("interruptions")
    made = dataclasses.replace(
        tiny(), model=str(random_folder), out=out, banks=out, device="cpu", height=32, width=32, batch=2, steps=2,
        save_every=1, log_every=1, warmup=1, text_length=160, train_clips=3, test_clips=1, sampling_steps=1,
    )  # fmt: skip
    assert prepare.main(prepare.Prepare(made)) == 0
    return made


@pytest.fixture(scope="module")
def bank(config: Config) -> MemoryBank:
    return MemoryBank.open(config.folder / "train")


# -- clips -------------------------------------------------------------------------------------------------------------


def test_a_bank_holds_each_clip_and_its_twin(config, bank) -> None:
    names = [f"train-{i:05d}" for i in range(3)]
    assert bank.ids == [id for name in names for id in (name, twin_of(name))]
    for name in names:
        clip, twin = bank.clip(name), bank.clip(twin_of(name))
        start, _ = next(r for r in records.read_records(bank.path) if r.id == name).hidden
        assert torch.equal(clip.latents[:, :start], twin.latents[:, :start])  # a causal VAE does not look ahead
        assert not torch.equal(clip.latents[:, start], twin.latents[:, start])
        assert clip.caption != twin.caption and twin.caption in clip.caption
        assert clip.cameras is not None and clip.cameras.c2w.shape == (13, 4, 4)
    before = bank.fingerprint, (bank.path / records.RECORDS).read_text()
    assert prepare.main(prepare.Prepare(config)) == 0
    assert before == (MemoryBank.open(bank.path).fingerprint, (bank.path / records.RECORDS).read_text())


def test_records_say_what_the_frames_show(config) -> None:
    for i in range(5):
        clip = WorldClip(f"test-{i:05d}", config)
        shown, twin = (frames for frames, _ in clip.both())
        differ = (shown != twin).flatten(1).any(1)
        start, clear = clip.record.hidden[0], clip.record.clear
        seen = [differ[frames_of((f, f + 1))].any().item() for f in range(config.latents)]
        assert not any(seen[:start]) and not any(seen[clear:]), clip.id
        assert seen[start + 1 : clear - 1] == [True] * (clear - start - 2), clip.id
        told = [caption != clip.record.twin_caption for caption in clip.record.captions]
        assert told == [a < clear and start < b for a, b in chunk_spans(config)], clip.id


def test_nothing_is_given_in_which_the_view_comes_back(config) -> None:
    for i in range(20):
        clip = WorldClip(f"test-{i:05d}", config)
        amount = clip.fog.timing.amount(49) if clip.by == "fog" else clip.drawn.by.amount(clip.seconds)
        (start, stop), clear = clip.record.hidden, clip.record.clear
        given = frames_of((start, stop))
        assert amount[given][-1] == 1.0 and start < stop <= clear <= 10
        assert (amount[given].diff() >= 0).all(), clip.id  # it only comes, or stays
        assert stop >= 7  # the chunk in which it begins ends hidden


def test_the_test_split_has_fog_and_training_has_none(config) -> None:
    kinds = {split: Counter(WorldClip(f"{split}-{i:05d}", config).by for i in range(20)) for split in ("train", "test")}
    assert "fog" not in kinds["train"] and kinds["test"]["fog"] == 4
    files = [FileClip(Row(1, Path("x"), "a cat", f"v{i}", "x"), config, held_out=True) for i in range(30)]
    assert any(isinstance(clip.settings, Fog) for clip in files)
    files = [dataclasses.replace(clip, held_out=False) for clip in files]
    assert (
        not any(isinstance(clip.settings, Fog) for clip in files) and len({c.record.by for c in files}) == 4
    )  # a loop is longer


def test_a_clip_too_short_to_be_interrupted_is_refused(config) -> None:
    short = dataclasses.replace(config, frames=17)
    with pytest.raises(InputError, match="more --frames"):
        _ = WorldClip("train-00000", short).record


def videos_in(folder: Path, frames: int = 50) -> Path:
    folder.mkdir()
    video = torch.randint(0, 256, (frames, 40, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for name in ("plain", "walk", "wrong"):
        write_video(folder / f"{name}.mp4", video, 8.0)
    write_video(folder / "short.mp4", video[:20], 8.0)
    c2w = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    c2w[:, 0, 3] = torch.arange(frames)
    cameras = Cameras(c2w, torch.tensor([0.8, 1.0, 0.5, 0.5]).double().expand(frames, 4))
    write_poses(folder / "walk.npz", cameras)
    write_poses(folder / "wrong.npz", Cameras(c2w[:9], cameras.intrinsics[:9]))
    captions = folder / "captions.csv"
    rows = ("plain.mp4,a cat.", "walk.mp4,a walk", "short.mp4,too short", "wrong.mp4,nine poses")
    captions.write_text("\n".join(("video,caption", *rows)) + "\n")
    return captions


def test_own_videos_are_interrupted_and_bad_ones_named(config, tmp_path, capsys) -> None:
    captions = videos_in(tmp_path / "mine")
    mine = dataclasses.replace(config, out=tmp_path, banks=tmp_path)
    command = prepare.Prepare(mine, videos=tmp_path / "mine", captions=captions)
    assert prepare.main(command) == 1
    told = capsys.readouterr().err
    assert "short.mp4" in told and "wrong.npz has 9 poses" in told
    bank = MemoryBank.open(tmp_path / "train")
    assert bank.ids == ["plain.mp4", "plain.mp4/twin", "walk.mp4", "walk.mp4/twin"]
    walked = bank.clip("walk.mp4/twin").cameras
    assert walked is not None and walked.c2w[:, 0, 3].tolist() == [4.0 * i for i in range(13)]
    assert prepare.main(dataclasses.replace(command, skip_bad=True)) == 0
    data = TrainingSet(bank, mine)
    assert set(data.batch(0).ids) <= set(bank.ids)


def test_poses_turn_with_a_virtual_camera(config, tmp_path) -> None:
    videos_in(tmp_path / "mine")
    row = Row(1, tmp_path / "mine" / "walk.mp4", "a walk", "x", "x")
    clips = (FileClip(row._replace(id=f"w{i}"), config) for i in range(40))
    clip = next(c for c in clips if c.record.by == "look-away")
    (_, turned), (_, given) = clip.both()
    start, stop = clip.record.hidden[0], clip.record.clear
    assert torch.equal(turned.c2w[:, :3, 3], given.c2w[:, :3, 3])
    moved = (turned.c2w - given.c2w).abs().amax((1, 2)) > 1e-6
    assert moved.any() and not moved[: 4 * start - 3].any() and not moved[4 * stop - 3 :].any()
    # its angle of view is the file's: 0.8 of a 64×40 frame, scaled and cropped to a square, of which .6 is kept
    torch.testing.assert_close(given.intrinsics[0, 0].item(), 0.8 * 1.6 / 0.6, rtol=1e-4, atol=0.0)


# -- graphs and batches ------------------------------------------------------------------------------------------------


def graphs_of(config: Config, hidden=(4, 8), count: int = 60) -> list:
    return [drawn_graph(config, hidden, random.Random(i)) for i in range(count)]


@pytest.mark.parametrize(
    ("changes", "gone"),
    [
        ({"node_drop": 0.0}, lambda graph: any(node.dropped for node in graph.nodes)),
        ({"noisy_memory": 0.0}, lambda graph: any(node.sigma > 0 for node in graph.nodes)),
        ({"frontier": False}, lambda graph: len(graph.nodes) == 5 and graph.nodes[1].conditioning_frames == 3),
        ({"reference": 0.0}, lambda graph: len(graph.nodes) < 5),
        ({"anchor": False}, lambda graph: any(n.role == "anchor" for n in graph.nodes if len(graph.nodes) == 5)),
    ],
)  # fmt: skip
def test_each_part_can_be_switched_off(config, changes, gone) -> None:
    assert any(map(gone, graphs_of(config)))
    assert not any(map(gone, graphs_of(dataclasses.replace(config, **changes))))


def test_the_curriculum_is_the_library_s(config) -> None:
    whole = curriculum(config).transforms  # type: ignore[attr-defined]
    assert whole == (FrontierContinuation(), NodeDrop(0.3, 0.6), NoisyMemory(0.5))
    off = dataclasses.replace(config, frontier=False, node_drop=0.0, noisy_memory=0.0)
    assert curriculum(off).transforms == ()  # type: ignore[attr-defined]


def test_a_graph_says_what_is_given_and_what_is_learned(config) -> None:
    graph = clip_graph(config, (4, 10))
    assert [node.role for node in graph.nodes] == ["seed", "anchor", "degraded", "degraded", "recovery"]
    assert graph.loss_mask().tolist() == [False, True, True, True, *[False] * 6, True, True, True]
    ends = clip_graph(config, (5, 8))  # in the middle of a chunk: its hidden frame is given, the others are learned
    assert [node.role for node in ends.nodes] == ["seed", "anchor", "degraded", "recovery", "recovery"]
    assert ends.loss_mask().tolist() == [False, True, True, True, *[False] * 4, *[True] * 5]
    plain = clip_graph(config, None)
    assert {node.role for node in plain.nodes[1:]} == {"plain"} and plain.loss_mask().sum() == 12
    wan = PRESETS["wan2.1-1.3b"]()
    assert len(clip_graph(wan, (7, 14)).nodes) == 7 and clip_graph(wan, None, known=6).given().sum() == 6


def test_a_batch_is_a_function_of_its_step_and_shared_by_processes(config, bank) -> None:
    data, seen = TrainingSet(bank, config), Counter()
    for step in range(16):
        whole = TrainingSet(bank, dataclasses.replace(config, batch=4)).batch(step)
        parts = [data.batch(step, rank, 2) for rank in range(2)]
        for name in ("latents", "noise", "memory_noise", "sigma"):
            joined = torch.stack([getattr(part, name) for part in parts], dim=1).flatten(0, 1)
            torch.testing.assert_close(getattr(whole, name), joined, rtol=0, atol=0)
        assert whole.graph == parts[0].graph == parts[1].graph
        assert [c for pair in zip(*(p.captions for p in parts), strict=True) for c in pair] == whole.captions
        assert whole.sigma.shape == (4, len(whole.graph.nodes)) and not torch.equal(whole.noise, whole.memory_noise)
        undisturbed = {id.endswith("/twin") for id in whole.ids}
        assert len(undisturbed) == 1
        kind = "clean" if undisturbed.pop() else "reference" if whole.graph.positions()[-1] > 12 else "usual"
        seen[kind] += 1
        told = {caption for row in whole.captions for caption in row if "while" in caption}
        assert not told or kind != "clean"
        seen["no text"] += sum(set(row) == {""} for row in whole.captions)
    assert set(seen) == {"clean", "reference", "usual", "no text"} and 0 < seen["no text"] < 20


def test_a_batch_shows_the_frames_of_its_graph(config, bank) -> None:
    data = TrainingSet(bank, config)
    batch = next(b for b in map(data.batch, range(50)) if b.graph.positions()[-1] > 12)
    sources = list(batch.graph.sources())
    assert sources in ([1, 2, 3, 10, 11, 12], [1, 2, 3, 7, 8, 9])  # the anchor and a chunk of recovery
    for id, latents in zip(batch.ids, batch.latents, strict=True):
        assert torch.equal(latents, bank.clip(id).latents.float()[:, sources])


def test_a_bank_of_something_else_is_refused(config, bank, tmp_path) -> None:
    with MemoryBank.create(tmp_path / "bank") as other:
        other.add("a", torch.zeros(16, 3, 4, 4), "a clip")
    with pytest.raises(InputError, match="prepare"):
        TrainingSet(other, config)
    with pytest.raises(InputError, match="chunks of 2"):
        TrainingSet(bank, dataclasses.replace(config, chunk=2))
    (tmp_path / "bank" / records.RECORDS).write_text('{"id": "x"}\n')
    with pytest.raises(InputError, match="line 1 is no record"):
        records.read_records(tmp_path / "bank")


# -- training ----------------------------------------------------------------------------------------------------------


trained = partial(finished, train)


def test_training_moves_everything_and_resumes_to_the_bit(config, tmp_path) -> None:
    own = dataclasses.replace(config, cameras="full")
    whole = trained(own, tmp_path / "whole")
    backbone = load_whole(config.model, 0, CPU)
    start = {f"cameras.{k}": v for k, v in train.make_cameras(own, backbone).state_dict().items()}
    start |= {f"transformer.{k}": v for k, v in backbone.transformer.state_dict().items()}
    assert start.keys() == whole.keys()
    assert not [name for name, value in start.items() if torch.equal(value, whole[name])]

    stop_once_saved(train, dataclasses.replace(own, out=tmp_path / "parts"), 1)
    parts = trained(own, tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    rows = [json.loads(line) for line in (tmp_path / "parts" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1] and all("@" in row["graph"] for row in rows)


def setup(config: Config, bank: MemoryBank):
    backbone = load_whole(config.model, 0, CPU)
    positions = train.make_cameras(config, backbone)
    training = train.Training(config, backbone, positions, Accelerator(cpu=True))
    return training, TextCache(backbone, config.text_length), TeacherForcing(), TrainingSet(bank, config)


def losses(config: Config, training, text, forcing, batch, length: int | None = None, checkpointing: bool = False):
    backbone = training.backbone
    with (
        prepared(backbone, length or config.text_length, checkpointing),
        forcing.attach(backbone.transformer) as forced,
        training.cameras.attach(backbone.transformer) as posed,
    ):
        return train.losses(training, text, forced, posed, batch)


def test_the_loss_is_on_what_is_neither_known_nor_degraded(config, bank) -> None:
    training, text, forcing, data = setup(config, bank)
    batch = next(b for b in map(data.batch, range(50)) if any(n.role == "degraded" for n in b.graph.nodes))
    error, sigma = losses(config, training, text, forcing, batch)
    mask = batch.graph.loss_mask()
    assert error.shape == sigma.shape == (2, int(mask.sum()))
    noise = batch.noise.clone()
    noise[:, :, ~mask] += 1.0
    changed = dataclasses.replace(batch, noise=noise)
    torch.testing.assert_close(losses(config, training, text, forcing, changed)[0], error)
    noise[:, :, mask] += 1.0
    changed = dataclasses.replace(batch, noise=noise)
    assert not torch.allclose(losses(config, training, text, forcing, changed)[0], error)


def test_short_texts_and_checkpointing_change_nothing(config, bank) -> None:
    own = dataclasses.replace(config, cameras="full")
    training, text, forcing, data = setup(own, bank)
    batch = next(b for b in map(data.batch, range(50)) if len({c for row in b.captions for c in row}) > 3)
    found = []
    for length, checkpointing in ((160, False), (160, True), (512, False)):
        training.modules.zero_grad(set_to_none=True)
        error, _ = losses(own, training, TextCache(training.backbone, length), forcing, batch, length, checkpointing)
        found.append((error, {n: p.grad.clone() for n, p in training.modules.named_parameters() if p.grad is not None}))
    for error, grads in found[1:]:
        torch.testing.assert_close(error, found[0][0], rtol=1e-4, atol=1e-5)
        assert grads.keys() == found[0][1].keys()
        for name, grad in grads.items():
            torch.testing.assert_close(grad, found[0][1][name], rtol=1e-3, atol=1e-5)


def test_cameras_matter_once_they_have_learned(config, bank) -> None:
    own = dataclasses.replace(config, cameras="phase")
    training, text, forcing, data = setup(own, bank)
    batch = data.batch(0)
    before, _ = losses(own, training, text, forcing, batch)
    moved = Cameras(batch.cameras.c2w.clone(), batch.cameras.intrinsics)
    moved.c2w[:, 5:, 0, 3] += torch.arange(8.0)
    other = dataclasses.replace(batch, cameras=moved)
    assert torch.equal(losses(own, training, text, forcing, other)[0], before)
    for weights in training.cameras.parameters():
        torch.nn.init.normal_(weights)
    assert not torch.allclose(losses(own, training, text, forcing, other)[0], before)


def test_another_run_s_checkpoint_is_refused(config, tmp_path) -> None:
    assert not any(name.startswith("cameras.") for name in trained(config, tmp_path, steps=1, cameras="off"))
    for changes in ({"node_drop": 0.1}, {"clean": 0.0}):
        with pytest.raises(InputError, match=next(iter(changes))):
            trained(config, tmp_path, steps=1, **{"cameras": "off", **changes})


def test_there_is_an_error_without_a_bank(config, tmp_path) -> None:
    with pytest.raises(InputError, match=r"prepare"):
        train.main(train.Command(dataclasses.replace(config, banks=tmp_path)))


def test_presets_are_whole() -> None:
    assert set(PRESETS) == {"tiny", "wan2.1-1.3b", "wan2.2-5b"}
    for name, make in PRESETS.items():
        made = make()
        assert (made.latents, made.first) == ((13, 1) if name == "tiny" else (21, 3))
    with pytest.raises(InputError, match="4·n"):
        _ = dataclasses.replace(tiny(), frames=50).latents
