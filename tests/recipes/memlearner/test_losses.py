"""MemLearner's losses: on what is made, of noisy context, and of the queries' own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import ExitStack

import pytest
import torch
from torch import Tensor

from memkit.backbones import WanBackbone
from memkit.errors import InputError
from memkit.flow import add_noise
from memkit.generation import TextCache, conditioning_frames
from memkit.rollout import ContextMethod
from memkit.training import load_trainable, prepared
from recipes.memlearner.data import Batch, TrainingSet
from recipes.memlearner.methods import make_method
from recipes.memlearner.presets import Config
from recipes.memlearner.step import Objective
from tests.helpers.memlearner_runs import trained

CPU = torch.device("cpu")


def losses(config: Config, backbone: WanBackbone, method: ContextMethod, batch: Batch, data: TrainingSet) -> Tensor:
    """The errors of a batch, with texts of the pipeline's length; leaves the gradients of its loss."""
    objective = Objective(dataclasses.replace(config, text_length=512), backbone, method, data)
    with ExitStack() as attached:
        loss, errors = objective(batch, CPU, attached)
        loss.backward()
    return errors


def test_the_loss_is_on_what_is_made(config, bank) -> None:
    backbone = load_trainable(config, torch.device("cpu"), False)
    own = dataclasses.replace(config, method="learned")
    method = make_method(own, backbone)
    data = TrainingSet([bank], own, method.keeps)
    batch = next(b for b in map(data.batch, range(20)) if len(b.history))

    def loss(noise: torch.Tensor) -> torch.Tensor:
        return losses(own, backbone, method, dataclasses.replace(batch, noise=noise), data)

    before, noise = loss(batch.noise), batch.noise.clone()
    noise[:, :, 0] += 1.0
    torch.testing.assert_close(loss(noise), before)
    noise[:, :, 1] += 1.0
    assert not torch.allclose(loss(noise), before)


def test_checkpointing_gives_the_same_gradients(config, bank) -> None:
    backbone = load_trainable(config, torch.device("cpu"), False)
    for name in ("learned", "cam", "separate"):
        own = dataclasses.replace(config, method=name)
        method = make_method(own, backbone)
        data = TrainingSet([bank], own, method.keeps)
        batch = next(b for b in map(data.batch, range(20)) if len(b.history))
        modules, found = torch.nn.ModuleDict({"backbone": backbone.transformer, "method": method}), []
        for checkpointing in (False, True):
            modules.zero_grad(set_to_none=True)
            with prepared(backbone, 512, checkpointing):
                losses(own, backbone, method, batch, data)
            found.append({n: p.grad.clone() for n, p in modules.named_parameters() if p.grad is not None})
        assert found[0].keys() == found[1].keys()
        for n, grad in found[0].items():
            torch.testing.assert_close(grad, found[1][n], rtol=1e-4, atol=1e-6)


def test_context_frames_are_noised_each_at_its_own_level(config, bank) -> None:
    own = dataclasses.replace(config, method="window", context_noise="independent")
    data = TrainingSet([bank], own, "chunks")
    batch = next(b for b in map(data.batch, range(20)) if len(b.history))
    selection = batch.history.take(batch.history.newest(3))
    noisy, times = data.noisy(selection, batch.context_seeds)
    again, _ = data.noisy(selection, batch.context_seeds)
    assert torch.equal(noisy.latents, again.latents) and times.shape == (2, 3) and len(times.unique()) == 6
    sigma = (times / 1000)[:, None, :, None, None]
    noise = (noisy.latents - (1 - sigma) * selection.latents) / sigma
    assert abs(noise.mean()) < 0.1 and abs(noise.std() - 1) < 0.1
    alone, _ = data.noisy(selection._replace(latents=selection.latents[1:]), batch.context_seeds[1:])
    assert torch.equal(alone.latents[0], noisy.latents[1])  # so that processes may share a batch
    with pytest.raises(InputError, match="clean context"):
        trained(config, config.out / "noisy-learned", method="learned", context_noise="independent")


def test_the_window_is_trained_on_its_noisy_frames(config, bank) -> None:
    backbone = load_trainable(config, torch.device("cpu"), False)
    own = dataclasses.replace(config, method="window", context_noise="independent")
    method = make_method(own, backbone)
    data = TrainingSet([bank], own, method.keeps)
    batch = next(b for b in map(data.batch, range(20)) if len(b.history))

    def loss(config: Config, batch: Batch = batch) -> torch.Tensor:
        return losses(config, backbone, method, batch, data)

    clean, noisy = loss(dataclasses.replace(own, context_noise="clean")), loss(own)
    assert not torch.allclose(clean, noisy)
    other = dataclasses.replace(batch, context_seeds=[seed + 1 for seed in batch.context_seeds])
    assert not torch.allclose(loss(own, other), noisy)


def test_queries_may_have_a_loss_of_their_own(config, bank, tmp_path) -> None:
    """By what it adds to the gradients: its weight times those of the error of what the queries hold."""
    config = dataclasses.replace(config, method="learned", query="noise", query_time="clean")
    backbone = load_trainable(config, torch.device("cpu"), False)
    method, text = make_method(config, backbone), TextCache(backbone, 512)
    data = TrainingSet([bank], config, method.keeps)
    batch = next(b for b in map(data.batch, range(20)) if len(b.history))
    weights = dict(backbone.transformer.named_parameters())

    def gradients(made: Callable[[], object]) -> dict[str, torch.Tensor]:
        backbone.transformer.zero_grad()
        made()
        return {name: x.grad.clone() for name, x in weights.items() if x.grad is not None}

    shown = {"selection": method.choose(batch.history, batch.cameras), "text": text(batch.captions)}
    noisy = add_noise(batch.latents, batch.noise, batch.sigma)

    def own() -> None:
        with (
            method.shown(backbone.transformer, **shown, cameras=batch.cameras, noise=batch.query_noise),
            conditioning_frames(batch.latents[:, :, :1], backbone.transformer),
        ):
            backbone.velocity(noisy, batch.sigma * 1000, shown["text"])
            (method.fetched - batch.latents).pow(2).mean().backward()
        assert method.fetched is None

    told: list[torch.Tensor] = []

    def whole(weight: float) -> Callable[[], object]:
        settings = dataclasses.replace(config, query_loss=weight)
        return lambda: told.append(losses(settings, backbone, method, batch, data))

    plain, both, alone = gradients(whole(0.0)), gradients(whole(0.5)), gradients(own)
    assert torch.equal(*told)  # the log tells of the prediction alone
    for name, gradient in both.items():
        torch.testing.assert_close(gradient, plain[name] + 0.5 * alone[name], atol=1e-5, rtol=1e-3)
    assert alone["proj_out.weight"].abs().max() > 1e-3
    with pytest.raises(InputError, match="'learned'"):
        trained(config, tmp_path, method="cam", query_loss=1.0)
    with pytest.raises(InputError, match="query-time clean"):
        trained(config, tmp_path, query_time="shared", query_loss=1.0)
