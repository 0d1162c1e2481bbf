"""Muon: what it makes of a gradient, and that its state is restored."""

from __future__ import annotations

import torch
from torch import nn

from memkit.training import MuonAdam
from memkit.training.muon import orthogonalise


def test_orthogonalise_moves_all_singular_values_near_one():
    for shape in ((20, 50), (50, 20)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert ((values > 0.5) & (values < 1.4)).all()


def test_a_restored_optimizer_goes_on_to_the_bit() -> None:
    def trained(steps: range, state: dict | None = None, weights: dict | None = None) -> tuple[nn.Module, MuonAdam]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 2))
        optimizer = MuonAdam(model, 0.1, 0.01, lambda name, parameter: parameter.ndim > 1)
        if state is not None:
            model.load_state_dict(weights)
            optimizer.load_state_dict(state)
        for step in steps:
            x = torch.randn(4, 2, 4, 4, generator=torch.Generator().manual_seed(step))
            model(x).square().sum().backward()
            optimizer.step(scale=0.5)
            assert all(p.grad is None for p in model.parameters())
        return model, optimizer

    whole, _ = trained(range(6))
    part, optimizer = trained(range(3))
    resumed, _ = trained(range(3, 6), optimizer.state_dict(), part.state_dict())
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
