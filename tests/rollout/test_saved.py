"""Context methods on disk: their parts come back, and other methods give their camera encoders."""

from __future__ import annotations

import pytest
import torch

from memkit.backbones import WanBackbone
from memkit.errors import InputError
from memkit.injectors import FrameContext, FrameContextConfig, QueryLayers, QueryLayersConfig
from memkit.rollout import LearnedContext, NewestContext, NoContext
from memkit.rollout.saved import camera_encoders, copy_camera_encoders, load_parts, parts_of


@pytest.fixture(scope="module")
def backbone(random_folder) -> WanBackbone:
    return WanBackbone.from_pretrained(random_folder)


def learned(layers: int = 1, cameras: tuple[str, ...] = ("exact",)) -> LearnedContext:
    return LearnedContext(QueryLayers(QueryLayersConfig(dim=48, blocks=3, layers=layers, cameras=cameras)), 6)


def newest(backbone, kind=NewestContext) -> NewestContext:
    config = FrameContextConfig.of(backbone.transformer, (), False, ("exact", "estimated"))
    return kind(FrameContext(config), 4) if kind is NewestContext else kind(FrameContext(config))


def changed(method, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in method.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return method


def save(method, folder):
    for name, part in parts_of(method).items():
        part.save_pretrained(folder / name)
    return folder


def test_what_is_saved_comes_back(backbone, tmp_path) -> None:
    for i, fresh in enumerate((learned(), newest(backbone))):
        method = changed(type(fresh)(*fresh.children(), 6) if i else learned())
        load_parts(fresh, save(method, tmp_path / str(i)))
        assert fresh.state_dict().keys() == method.state_dict().keys() and fresh.state_dict()
        assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), method.parameters(), strict=True))


def test_another_method_and_other_settings_are_refused(backbone, tmp_path) -> None:
    folder = save(changed(learned()), tmp_path)
    with pytest.raises(InputError, match="no method of this kind"):
        load_parts(newest(backbone), folder)
    with pytest.raises(InputError, match="layers=1.*layers=2"):
        load_parts(learned(layers=2), folder)


def test_camera_encoders_are_taken_from_any_method(backbone, tmp_path) -> None:
    source = changed(newest(backbone, NoContext))
    method = changed(learned(cameras=("exact", "measured")), seed=1)
    before = {name: value.clone() for name, value in camera_encoders(method)["measured"].state_dict().items()}
    copy_camera_encoders(method, save(source, tmp_path / "source"))
    mine, theirs = (camera_encoders(each)["exact"].state_dict() for each in (method, source))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    kept = camera_encoders(method)["measured"].state_dict()
    assert all(torch.equal(kept[name], value) for name, value in before.items())
    with pytest.raises(InputError, match="no method"):
        copy_camera_encoders(method, tmp_path)
