"""WorldMem's rule against a literal one, and where it differs from ours."""

from __future__ import annotations

import math

import pytest
import torch

from memkit.cameras import Cameras
from memkit.errors import InputError
from memkit.retrievers import FOVRetriever, WorldMemRetriever, WorldMemRule
from memkit.testing import check_retriever
from tests.helpers.fov_cameras import cameras, circle, one

RULE = WorldMemRule(count=150, radius=6.0, fov_degrees=(100.0, 70.0))


def literal(frames: Cameras, query: Cameras, k: int) -> list[str]:
    """Point by point and frame by frame."""

    def sees(c2w: torch.Tensor, point: torch.Tensor) -> bool:
        x, y, z = (torch.linalg.inv(c2w) @ torch.cat([point, torch.ones(1)]))[:3].tolist()
        yaw, pitch = math.degrees(math.atan2(x, z)), math.degrees(math.atan2(y, math.sqrt(x * x + z * z)))
        return abs(yaw) <= 50 and abs(pitch) <= 35

    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(RULE.count, 3, generator=generator, dtype=torch.float64)
    far = 6 * torch.rand(RULE.count, 1, generator=generator, dtype=torch.float64) ** (1 / 3)
    ball = query.c2w[:3, 3] + far * directions / directions.norm(dim=1, keepdim=True)
    left = {i for i, point in enumerate(ball) if sees(query.c2w, point)}
    covered = [{i for i in left if sees(c2w, ball[i])} for c2w in frames.c2w]
    taken: list[int] = []
    for _ in range(k):
        scores = {
            i: len(own & left) / max(1, len(left)) - 0.2 * (len(covered) - i) / len(covered)
            for i, own in enumerate(covered)
            if i not in taken
        }
        taken.append(max(scores, key=lambda i: (scores[i], -i)))
        left -= covered[taken[-1]]
    return [str(i) for i in taken]


def test_the_frames_of_24_queries_are_those_of_the_literal_rule() -> None:
    generator = torch.Generator().manual_seed(1)
    walk = torch.randn(12, 4, generator=generator, dtype=torch.float64).cumsum(0) * torch.tensor([0.8, 0.8, 0.1, 0.6])
    frames = cameras(walk.tolist())
    exact, ours, same = WorldMemRetriever(frames, RULE), FOVRetriever(frames, "points", select="cover", recency=0.2), 0
    for i in range(24):
        near = walk[i % 12] + 0.5 * torch.randn(4, generator=generator, dtype=torch.float64)
        query = one(*near.tolist())
        found = exact(query, 8).ids
        assert found == literal(frames, query, 8) and len(found) == 8
        same += found == ours(query, 8).ids
    assert same < 12  # ours is another reading


def test_it_has_no_far_end_and_takes_recent_frames_that_add_nothing() -> None:
    places = [(-500.0, 0, 0, 0.0), (0, 0, 0, math.pi), (1, 0, 0, math.pi)]  # far behind, and two that look away
    assert WorldMemRetriever(cameras(places), RULE)(one(), 3).ids == ["0", "2", "1"]
    assert FOVRetriever(cameras(places), "points", select="cover")(one(), 3).ids == []


def test_it_has_the_properties_of_a_retriever() -> None:
    places = circle(turns=1) + [(0.3 * i, 2, 0, -0.4) for i in range(5)]
    sources = {str(i): f"film{i % 3}" for i in range(len(places))}
    retriever = WorldMemRetriever(cameras(places), RULE, sources=list(sources.values()))
    check_retriever(retriever, [one(), one(yaw=1)], sources=sources, ranks=False, examples=2)
    with pytest.raises(InputError, match="give one camera"):
        retriever(cameras(places))
