"""Neighbours that add layers or positions: at zero, or where nothing moves, they are the model."""

import pytest
import torch

from memkit.generation import embed_short
from memkit.injectors import TextRegions
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
        (GSFixer(references=False, blurred=0, random=0.5), GSFixer(references=False, random=0.5)),
        (GSFixer(), GSFixer(blurred=0, random=0.5)),
        (DeT(), DeT(random=0.5)),
        (DeT(), DeT(tuned=2, lr=1e-2)),
        (ARLON(), ARLON(random=0.5)),
        (DiTraj(start=(0, 0), stop=(0, 0), size=(1, 1)), DiTraj(start=(0, 0), stop=(1, 1), size=(1, 1))),
    ],
    ids=["GSFixer", "GSFixer without references", "GSFixer without control", "DeT", "DeT, tuned", "ARLON", "DiTraj"],
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


def test_ditraj_has_a_prompt_in_the_box_and_one_outside():
    of, still = video(3), {"start": (0, 0), "stop": (0, 0), "size": (1, 1)}
    same = DiTraj(**still, foreground=of.prompt, background=of.prompt).sample(of)
    torch.testing.assert_close(same, of.plain(), atol=1e-5, rtol=0)
    box = torch.tensor([[1, 0, 0, 0]] * 3)
    with TextRegions(box, [embed_short(of.backbone, ["a blue cube"], 16)]).attach(of.backbone):
        expected = of.plain()
    torch.testing.assert_close(DiTraj(**still, foreground="a blue cube").sample(of), expected, atol=1e-5, rtol=0)
    assert not torch.allclose(expected, of.plain(), atol=1e-4)
