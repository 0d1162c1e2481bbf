"""What the knobs of each probe do, and the claims that its construction makes possible."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from memkit.cameras import Cameras
from memkit.probes import Evolve, EvolveKnobs, Law, LawKnobs, Occlusion, OcclusionKnobs, ProbeBatch, make_probe
from memkit.retrievers import FOVRetriever, Points


def sample(name: str, count: int = 200, **knobs) -> ProbeBatch:
    return make_probe(name, **knobs).sample(torch.Generator().manual_seed(3), count)


def at(cameras: Cameras, *index: int) -> Cameras:
    return Cameras(cameras.c2w[index], cameras.intrinsics[index])


def empty(batch: ProbeBatch) -> torch.Tensor:
    """[batch, past]: frames that show nothing."""
    return batch.memory.movedim(2, 1).flatten(2).abs().amax(2) == 0


def test_ranges_change_in_training_and_not_in_the_test():
    probe = make_probe("recall", facts=3)
    assert probe.ranges.keys() == {"distance"} and make_probe("recall", facts=3, distance=1).ranges == {}
    for split, lengths in {"pretrain": {4, 6, 10}, "train": {4, 6, 10}, "test": {6}}.items():
        batches = itertools.islice(probe.batches(split, 1, 2), 30)
        assert {batch.memory.shape[2] for batch in batches} == lengths
    assert probe.at(distance=4).past == 8 and probe.at(distance=4).ranges == {}


# -- recall ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("facts", "distractors", "distance"), [(1, 0, 0), (4, 1, 1), (8, 3, 5)])
def test_load_distractors_and_distance_of_recall(facts, distractors, distance):
    batch = sample("recall", facts=facts, distractors=distractors, distance=distance, queries=1)
    assert len(batch.memory_times) == facts + distractors + distance
    hidden = empty(batch)
    assert hidden[:, facts + distractors :].all() and not hidden[:, : facts + distractors].any()
    at_centre = batch.memory_cameras.c2w[..., :3, 3].norm(dim=-1) < 1e-9
    assert (at_centre.sum(1) == facts).all() and not at_centre[:, facts + distractors :].any()


def test_of_recall_the_field_of_view_finds_each_fact_before_all_distractors():
    batch = sample("recall", 20, facts=6, distractors=4, distance=2)
    for row in range(20):
        rule = FOVRetriever(at(batch.memory_cameras, row))
        for frame in range(2):
            hits = rule(at(batch.cameras, row, frame), k=2)
            assert hits.scores[0] == pytest.approx(1) and max(hits.scores[1:], default=0) < 0.6
            assert torch.equal(batch.memory[row, :, int(hits.ids[0])], batch.target[row, :, frame])


# -- occlusion ---------------------------------------------------------------------------------------------------------


def ranks(batch: ProbeBatch, depth: bool = False) -> torch.Tensor:
    """For each question, how many frames of more overlap there are than the first that shows the place."""
    found = []
    for row in range(len(batch)):
        known = batch.depth[row].clamp(max=20.0) if depth else None
        rule = Points(count=500, far=12.0) if depth else "sector"
        retriever = FOVRetriever(at(batch.memory_cameras, row), rule, depth=known)
        for frame in range(len(batch.times)):
            ids = [int(id) for id in retriever(at(batch.cameras, row, frame), k=20).ids]
            found.append([torch.equal(batch.memory[row, :, id], batch.target[row, :, frame]) for id in ids].index(True))
    return torch.tensor(found)


@pytest.mark.parametrize(("views", "walls"), [(4, 3), (5, 3)])
def test_a_rule_of_views_finds_the_right_frame_in_the_stated_share(views, walls):
    """The share of independent samples, within four standard errors."""
    knobs = OcclusionKnobs(views=views, walls=walls)
    rank = ranks(Occlusion(knobs).sample(torch.Generator().manual_seed(5), 80))
    for k in range(1, views + 2):
        stated = knobs.found_by_view(k)
        share = (rank < k).float().mean().item()
        assert abs(share - stated) <= 4 * (stated * (1 - stated) / 160) ** 0.5 + 1e-6
        assert stated == pytest.approx(1 - math.comb(walls, k) / math.comb(views, k) if k <= walls else 1)


def test_without_walls_the_rule_of_views_is_always_right():
    assert OcclusionKnobs(walls=0).found_by_view(1) == 1 and not ranks(sample("occlusion", 20, walls=0)).any()


@pytest.mark.parametrize("places", [2, 3])
def test_with_depth_the_rule_of_views_is_always_right(places):
    assert not ranks(sample("occlusion", 15, depth=True, places=places), depth=True).any()
    assert sample("occlusion", 2).depth is None


def test_all_views_of_a_place_overlap_it_and_those_of_others_do_less():
    batch = sample("occlusion", 10, places=4, views=6, walls=5, distance=2)
    for row in range(10):
        rule = FOVRetriever(at(batch.memory_cameras, row))
        for frame in range(4):
            overlap = rule.overlap(at(batch.cameras, row, frame))
            best = overlap.argsort(descending=True)
            assert overlap[best[5]] > 0.2 and overlap[best[6]] < 0.6 * overlap[best[5]]


def test_walls_show_patterns_of_the_codebook_that_are_wrong():
    probe = Occlusion(OcclusionKnobs(places=1, views=4, walls=3))
    batch = probe.sample(torch.Generator().manual_seed(0), 100)
    frames = batch.memory.movedim(2, 1).flatten(2)
    walls = frames @ probe.wall.flatten() / 64 > 0.5
    assert (walls.sum(1) == 3).all() and probe.knobs.misleading == 0.75
    shown = (frames @ batch.questions[0].choices.flatten(2).mT).argmax(2)
    assert ((shown == batch.questions[0].answer[:, None]) == ~walls).all()


# -- evolve ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "knobs", [{}, {"gaps": (1, 3)}, {"dropped": 2}, {"hidden": 0, "queries": 1}, {"states": 5, "seen": 4}]
)
def test_of_evolve_the_frozen_state_is_never_right_and_the_rate_always(knobs):
    probe = Evolve(EvolveKnobs(**knobs))
    batch = probe.sample(torch.Generator().manual_seed(1), 300)
    assert probe.score(probe.oracle(batch), batch).all()
    still = [(time - batch.memory_times[probe.knobs.seen - 1]) % probe.knobs.states == 0 for time in batch.times]
    assert torch.equal(probe.score(probe.frozen(batch), batch), torch.tensor(still).expand(300, -1))


def test_gaps_drops_and_noise():
    assert {
        sample("evolve", 1, seen=4, gaps=(0, 4)).times[0],
        *(
            Evolve(EvolveKnobs(seen=4, gaps=(0, 4))).sample(torch.Generator().manual_seed(i), 1).times[0]
            for i in range(9)
        ),
    } == {6, 10}
    hidden = empty(sample("evolve", seen=4, dropped=1, hidden=3))
    assert (
        (hidden[:, :4].sum(1) == 1).all()
        and hidden[:, 4:].all()
        and len(set(hidden[:, :4].int().argmax(1).tolist())) == 4
    )
    noisy, clean = sample("evolve", noise=0.5), sample("evolve")
    assert torch.equal(noisy.target, clean.target) and abs((noisy.memory - 0.5 * clean.memory).std() - 0.5) < 0.01


# -- law ---------------------------------------------------------------------------------------------------------------


def test_the_mean_over_time_tells_the_look_and_changes_tell_the_law():
    probe = Law(LawKnobs(clips=3))
    batch = probe.sample(torch.Generator().manual_seed(1), 100)
    assert batch.clips.shape == (100, 3, 4, 5, 4, 4)
    look = batch.questions[-1]
    pictures = look.choices[torch.arange(100), look.answer]
    mean = batch.clips.mean(3) - probe.states.mean(0)
    assert torch.allclose(mean, pictures[:, None].expand_as(mean), atol=1e-4)
    changes = batch.clips.diff(dim=3)
    seen = (changes * pictures[:, None, :, None]).flatten(2).sum(2)
    assert seen.abs().max() < 1e-2
    kinds = [(each.kind, each.frame) for each in batch.questions]
    assert kinds == [("law", 1), ("law", 2), ("look", 1), ("look", 2)]


@pytest.mark.parametrize("aligned", [0.0, 0.4, 1.0])
def test_the_first_clip_begins_as_the_chunk_does_in_a_share_of_the_samples(aligned):
    """Beside accidents, which are one in five; all other clips begin in any state, and the chunk does."""
    probe = Law(LawKnobs(clips=2, aligned=aligned))
    batch = probe.sample(torch.Generator().manual_seed(1), 400)
    frames = batch.clips[:, 0, :, 0], batch.clips[:, 1, :, 0], batch.target[:, :, 0]
    first, second, chunk = ((each.flatten(1) @ probe.states.flatten(1).T).argmax(1) for each in frames)
    shares = [(each == chunk).float().mean().item() for each in (first, second)]
    assert shares == pytest.approx([aligned + (1 - aligned) / 5, 0.2], abs=0.06)
    assert all(set(each.tolist()) == set(range(5)) for each in (first, second, chunk))
    assert probe.score(probe.oracle(batch), batch).all()


def test_names_are_new_in_each_sample_and_the_given_frame_shows_no_look():
    batch = sample("law")
    assert len(batch.text.flatten(1).unique(dim=0)) == 200 and batch.given == 1
    look = batch.questions[-1].choices.flatten(2)
    assert (look @ batch.target[:, :, 0].flatten(1)[..., None]).abs().max() < 1e-2


def test_memory_of_another_name_follows_its_law():
    """As the oracle reads it: where laws differ it is wrong, in all frames."""
    probe = make_probe("law")
    batch = sample("law")
    other = torch.arange(200).roll(1)
    law = (batch.questions[0].answer - (batch.target[:, :, 0].flatten(1) @ probe.states.flatten(1).T).argmax(1)) % 5
    right = probe.score(probe.oracle(batch.with_memory_of(other)), batch)[:, :2]
    assert torch.equal(right, (law == law[other])[:, None].expand(-1, 2))


def test_a_base_meets_fewer_and_fewer_aligned_clips_and_a_mechanism_as_many_as_the_test(monkeypatch):
    monkeypatch.setattr("memkit.probes.law.EASED_STEPS", 4)
    probe = make_probe("law", clips=2)
    states = probe.states.flatten(1)

    def shares(split, count):
        found = []
        for batch in itertools.islice(probe.batches(split, 1, 400), count):
            frames = batch.clips[:, 0, :, 0], batch.clips[:, 1, :, 0], batch.target[:, :, 0]
            first, second, chunk = ((each.flatten(1) @ states.T).argmax(1) for each in frames)
            found.append([(each == chunk).float().mean().item() for each in (first, second)])
        return torch.tensor(found)

    wanted = torch.tensor([[0.76, 0.2], [0.62, 0.2], [0.48, 0.2], [0.34, 0.2], [0.2, 0.2]])
    assert torch.allclose(shares("pretrain", 5), wanted, atol=0.08)
    for split in ("train", "test"):
        assert torch.allclose(shares(split, 2), torch.tensor([1.0, 0.2]).expand(2, 2), atol=0.08)


# -- switch ------------------------------------------------------------------------------------------------------------


def test_of_switch_the_older_fact_is_never_right():
    probe = make_probe("switch", facts=4, distractors=2)
    batch = probe.sample(torch.Generator().manual_seed(1), 300)
    assert probe.score(probe.oracle(batch), batch).all() and not probe.score(probe.older(batch), batch).any()


@pytest.mark.parametrize(("facts", "distractors", "distance"), [(2, 0, 0), (3, 1, 1), (5, 3, 4)])
def test_load_distractors_and_distance_of_switch(facts, distractors, distance):
    batch = sample("switch", facts=facts, distractors=distractors, distance=distance)
    looks = 2 * facts + distractors
    assert len(batch.memory_times) == looks + distance
    assert empty(batch)[:, looks:].all() and not empty(batch)[:, :looks].any()
    heading = batch.memory_cameras.c2w[:, :looks, :3, 2]
    times = (torch.cdist(heading, heading) < 1e-6).sum(2)
    assert ((times == 2).sum(1) == 2 * facts).all() and ((times == 1).sum(1) == distractors).all()
