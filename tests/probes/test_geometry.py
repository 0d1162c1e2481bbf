"""Mechanisms of the probes that take depth: surfels and latents in space."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from memkit.errors import InputError
from memkit.probes import ProbeSettings, make_probe
from memkit.probes.mechanisms import FramesInView, FramesOfSurfels, LatentsInSpace
from memkit.probes.training import predict
from recipes.leaderboard.cells import WITH_DEPTH, mechanism_of


def model_of(probe):
    model = ProbeSettings(blocks=2, heads=2, batch=3).model(0)
    with torch.no_grad():
        for block in model.blocks:
            block.scale_shift_table.normal_()
    return model, probe.sample(torch.Generator().manual_seed(2), 4)


def patterns(batch) -> list[set]:
    return [{tuple(x.flatten().tolist()) for x in frames.unbind(1)} for frames in batch]


@pytest.mark.parametrize("select", ["poses", "votes"])
def test_surfels_select_what_saw_the_places_and_a_rule_of_views_does_not(select) -> None:
    probe = make_probe("occlusion", depth=True)
    model, batch = model_of(probe)
    wanted = patterns(batch.target)
    assert patterns(FramesOfSurfels(model, probe, select=select).selected(batch).memory) == wanted
    assert patterns(FramesInView(model, probe).selected(batch).memory) != wanted
    mechanism = FramesOfSurfels(model, probe)
    assert mechanism.held_bytes(batch) > FramesInView(model, probe).held_bytes(batch)
    assert mechanism.held_bytes(batch.without_memory()) == 0


def test_latents_in_space_show_the_places_and_reach_the_chunk_by_the_branch_alone() -> None:
    probe = make_probe("occlusion", depth=True, distance=2)
    model, batch = model_of(probe)
    mechanism, noise = LatentsInSpace(model, probe), torch.randn(batch.target.shape)
    for sample in range(4):
        control = mechanism._seen(batch, sample)
        assert control[-1].all() and torch.equal(control[:-1], batch.target[sample])
    plain = predict(model, mechanism, batch.without_memory(), noise)
    assert torch.equal(predict(model, mechanism, batch, noise), plain)  # its hints begin at 0
    for parameter in mechanism.branch.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    out = predict(model, mechanism, batch, noise)
    other = replace(batch, memory=torch.randn_like(batch.memory))
    for changed in (batch.without_memory(), other, batch.with_memory_of(torch.tensor([1, 2, 3, 0]))):
        assert (predict(model, mechanism, changed, noise) - out).abs().max() > 1e-3
    assert mechanism.held_bytes(batch) == 8 * 16 * (32 + 4 * 4) and mechanism.held_bytes(batch.without_memory()) == 0
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("build", [FramesOfSurfels, LatentsInSpace])
def test_without_depth_they_say_so(build) -> None:
    probe = make_probe("occlusion")
    model, batch = model_of(probe)
    with pytest.raises(InputError, match="use depth=True"):
        predict(model, build(model, probe), batch, torch.randn(batch.target.shape))


def test_the_leaderboard_runs_them_with_depth() -> None:
    assert {mechanism_of(cell.mechanism) for cell in WITH_DEPTH} >= {FramesOfSurfels, LatentsInSpace}
    assert all(next(cell.task().batches("test", 0, 1)).depth is not None for cell in WITH_DEPTH)
