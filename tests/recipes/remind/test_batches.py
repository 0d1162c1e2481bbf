"""ReMind's batches: frame graphs, what of the curriculum can be switched off, what processes share."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter

import pytest
import torch

from memkit.banks import MemoryBank
from memkit.errors import InputError
from memkit.frame_graph import FrontierContinuation, NodeDrop, NoisyMemory
from recipes.remind import records
from recipes.remind.data import TrainingSet, clip_graph, curriculum, sample_graph
from recipes.remind.presets import PRESETS, Config


@pytest.fixture
def config(untrained: Config) -> Config:
    return untrained


def graphs_of(config: Config, hidden=(4, 8), count: int = 60) -> list:
    return [sample_graph(config, hidden, random.Random(i)) for i in range(count)]


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
    assert len(clip_graph(wan, (7, 14)).nodes) == 7 and clip_graph(wan, None, conditioning_frames=6).given().sum() == 6


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
    with pytest.raises(InputError, match="line 1 is not a record"):
        records.read_records(tmp_path / "bank")
