"""All probes: the answer lies in memory and nowhere else, chance is what is said, and a seed is all that counts."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from typing import Any

import pytest
import torch

from memkit.errors import InputError
from memkit.probes import PROBES, Probe, ProbeBatch, make_probe

NAMES = tuple(PROBES)
COUNT = 3000


@pytest.fixture(scope="module")
def large() -> dict[str, ProbeBatch]:
    """Many samples of each probe."""
    return {name: make_probe(name).sample(torch.Generator().manual_seed(1), COUNT) for name in NAMES}


def accuracy(probe: Probe[Any], prediction: torch.Tensor, batch: ProbeBatch) -> float:
    return probe.score(prediction, batch).float().mean().item()


def near(value: float, expected: float, questions: int) -> bool:
    """Within four standard errors of a mean over COUNT samples, of which each asks dependent questions."""
    return abs(value - expected) < 4 * (expected * (1 - expected) / COUNT) ** 0.5


@pytest.mark.parametrize("name", NAMES)
def test_the_right_chunk_is_right_and_the_past_tells_it(large, name):
    probe, batch = make_probe(name), large[name]
    assert accuracy(probe, batch.target, batch) == 1.0
    assert accuracy(probe, probe.oracle(batch), batch) == 1.0


@pytest.mark.parametrize("name", NAMES)
def test_with_the_past_of_another_sample_the_oracle_is_at_chance(large, name):
    probe, batch = make_probe(name), large[name]
    wrong = batch.with_memory_of(torch.arange(COUNT).roll(1))
    assert near(accuracy(probe, probe.oracle(wrong), batch), probe.chance, len(batch.questions))


@pytest.mark.parametrize("name", NAMES)
def test_without_the_past_no_guess_beats_chance(large, name):
    """What else a model sees, cameras, caption, times and given frames, is independent of the answer: among samples
    that share it, all answers are equally frequent, and the best constant guess is right as often as chance says."""
    probe, batch = make_probe(name), large[name]
    best = []
    for question in batch.questions:
        told = torch.zeros(COUNT, dtype=torch.long)
        if batch.given:  # the state from which the chunk goes on is told, and rules itself out
            states = question.choices.flatten(2) if len(question.choices) == 1 else None
            if states is not None:
                told = (batch.target[:, :, 0].flatten(1) @ states[0].T).argmax(1)
        counts = torch.stack([torch.bincount(question.answer[told == i], minlength=8) for i in told.unique()])
        best.append((counts.max(1).values.sum() / COUNT).item())
        assert abs(best[-1] - question.chance) < 0.04
        assert counts[:, : question.choices.shape[1]].sum() == COUNT
    assert abs(sum(best) / len(best) - probe.chance) < 0.03
    assert probe.chance == pytest.approx(sum(each.chance for each in batch.questions) / len(batch.questions))


@pytest.mark.parametrize("name", NAMES)
def test_the_answer_is_independent_of_cameras_and_caption(large, name):
    """A linear guess from all of them, fitted to half of the samples, is at chance on the others."""
    batch = large[name]
    poses = torch.cat(batch.poses(), dim=1).flatten(1)
    told = torch.cat([poses, batch.text.flatten(1), torch.ones(COUNT, 1)], dim=1).double()
    half = COUNT // 2
    for question in batch.questions:
        if question.kind == "law":
            continue  # its answers depend on the given frame, as the test above counts
        wanted = torch.nn.functional.one_hot(question.answer, question.choices.shape[1]).double()
        fitted = torch.linalg.pinv(told[:half]) @ wanted[:half]
        right = ((told[half:] @ fitted).argmax(1) == question.answer[half:]).double().mean().item()
        assert abs(right - question.chance) < 4 * (question.chance / half) ** 0.5


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_is_all_that_counts(name):
    probe = make_probe(name)

    def digest(split: Any, seed: int) -> str:
        batch = next(probe.batches(split, seed, 4))
        parts = [batch.memory, batch.target, batch.memory_cameras.c2w, batch.text]
        return hashlib.sha256(b"".join(x.numpy().tobytes() for x in parts)).hexdigest()

    first = digest("train", 1)
    torch.manual_seed(5)
    torch.rand(3)
    assert digest("train", 1) == first
    assert len({first, digest("test", 1), digest("train", 2), digest("test", 2)}) == 4


@pytest.mark.parametrize("name", [name for name in NAMES if name != "evolve"])
def test_no_pattern_of_training_occurs_in_the_test(name):
    """What is asked for is drawn anew for each sample; only states and walls look the same in all."""
    probe = make_probe(name)
    books = [
        next(probe.batches(split, 1, 64)).questions[-1].choices.flatten(0, 1).flatten(1) for split in ("train", "test")
    ]
    cosine = (books[0] @ books[1].T).abs() / books[0].shape[1]
    assert cosine.max() < 0.7


@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_choices(name):
    for size in (4, 8):
        probe = make_probe(name, size=size)
        batch = probe.sample(torch.Generator().manual_seed(0), 3)
        assert batch.memory.shape == (3, 4, probe.past, size, size) and len(batch.memory_times) == probe.past
        assert batch.target.shape == (3, 4, probe.frames, size, size) and len(batch.times) == probe.frames
        assert batch.memory_cameras.c2w.shape == (3, probe.past, 4, 4) and batch.cameras.c2w.shape[:2] == (
            3,
            probe.frames,
        )
        assert [x.shape[1:] for x in batch.poses()] == [(probe.frames, 12), (probe.past, 12)]
        assert batch.memory_times[-1] < batch.times[0] and batch.clips.flatten(1, 1).shape[0] == 3
        for question in batch.questions:
            flat = question.choices.flatten(2)
            gram = flat @ flat.mT / flat.shape[2]
            assert torch.allclose(gram, torch.eye(flat.shape[1]).expand_as(gram), atol=1e-4)
            assert batch.given <= question.frame < probe.frames


def test_the_control_without_the_past_is_the_same_batch_without_it():
    batch = make_probe("occlusion", depth=True).sample(torch.Generator().manual_seed(0), 2)
    without = batch.without_memory()
    assert without.memory.shape[2] == 0 and without.memory_times == () and without.depth.shape[1] == 0
    for field in fields(ProbeBatch):
        if "memory" not in field.name and field.name != "depth":
            assert getattr(without, field.name) is getattr(batch, field.name)
    newest = batch.newest(2)
    assert torch.equal(newest.memory, batch.memory[:, :, -2:]) and newest.memory_times == batch.memory_times[-2:]


def test_what_a_model_sees_moves_to_a_device():
    moved = make_probe("occlusion", depth=True).sample(torch.Generator().manual_seed(0), 2).to("meta")
    seen = [moved.memory, moved.target, moved.text, moved.depth, moved.cameras.c2w, moved.memory_cameras.intrinsics]
    assert all(x.is_meta for x in seen) and not moved.questions[0].answer.is_meta


@pytest.mark.parametrize(
    ("name", "knobs", "said"),
    [
        ("recal", {}, "The probe is 'recal'; choose one of recall"),
        ("recall", {"places": 3}, "recall has no knobs ['places']; it has size, facts"),
        ("recall", {"queries": 9}, "1 ≤ queries ≤ facts"),
        ("recall", {"size": 5}, "even size"),
        ("occlusion", {"walls": 4}, "0 ≤ walls < views"),
        ("evolve", {"states": 6}, "prime number"),
        ("evolve", {"dropped": 5}, "of which 2 are left"),
        ("evolve", {"gaps": ()}, "one gap or more"),
        ("law", {"states": 4}, "prime number"),
        ("law", {"queries": 5}, "states − 1 queries"),
        ("law", {"aligned": 1.5}, "a share from 0 to 1"),
        ("switch", {"distance": -1}, "nothing below 0"),
    ],
)
def test_knobs_that_do_not_fit_are_refused(name, knobs, said):
    with pytest.raises(InputError) as error:
        make_probe(name, **knobs)
    assert said in str(error.value)


def test_more_patterns_than_numbers_are_refused():
    with pytest.raises(InputError, match="65 orthogonal patterns of 64 numbers"):
        make_probe("recall", patterns=65).sample(torch.Generator(), 1)


def test_a_prediction_of_another_shape_is_refused():
    probe = make_probe("recall")
    batch = probe.sample(torch.Generator().manual_seed(0), 2)
    with pytest.raises(InputError, match="give \\[2, 4, 2, 4, 4\\]"):
        probe.score(batch.memory, batch)
