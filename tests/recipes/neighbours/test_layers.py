"""Neighbours that add layers or positions: at zero, or where nothing moves, they are the model."""

import pytest
import torch

from memkit.positions import TokenPositions, moved_box
from recipes.neighbours.arlon import ARLON
from recipes.neighbours.det import DeT
from recipes.neighbours.di_traj import DiTraj
from recipes.neighbours.gs_fixer import GSFixer
from tests.helpers.neighbour_videos import video


@pytest.mark.parametrize(
    ("untrained", "drawn"),
    [
        (GSFixer(), GSFixer(random=0.5)),
        (GSFixer(references=False, random=0.5), GSFixer(random=0.5)),
        (DeT(), DeT(random=0.5)),
        (ARLON(), ARLON(random=0.5)),
        (DiTraj(start=(0, 0), stop=(0, 0), size=(1, 1)), DiTraj(start=(0, 0), stop=(1, 1), size=(1, 1))),
    ],
    ids=["GSFixer", "GSFixer without references", "DeT", "ARLON", "DiTraj"],
)
def test_untrained_layers_and_identical_positions_are_plain_sampling(untrained, drawn):
    of = video(3)
    assert torch.equal(untrained.sample(of), of.plain())
    assert not torch.allclose(drawn.sample(of), of.plain(), atol=1e-3)
    assert torch.equal(of.plain(), of.plain())  # and nothing is left on the model


def test_the_box_of_ditraj_keeps_the_places_of_the_anchor_frame():
    of = video(3)
    index = moved_box([(1, 0, 1, 1), (1, 0, 1, 1), (1, 1, 1, 1)], 2, 2, anchor=2)  # 0.5 is rounded to 0
    with TokenPositions(index).attach(of.backbone):
        expected = of.plain()
    assert torch.equal(DiTraj(start=(1, 0), stop=(1, 1), size=(1, 1), anchor=2).sample(of), expected)
