"""Encoders by the path to their class: created, saved, loaded, and never imported because a file says so."""

import json
import sys

import pytest
import torch

from memkit.encoders import load_encoder, make_encoder
from memkit.errors import InputError
from memkit.testing import check_encoder

SOURCE = """
from dataclasses import dataclass

from torch import nn

from memkit.encoders import MemoryEncoder, check_clips, encode_clips


@dataclass(frozen=True)
class MeanConfig:
    latent_channels: int
    dim: int
    gain: float = 1.0


class MeanEncoder(MemoryEncoder):
    config_class = MeanConfig

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.out = nn.Linear(config.latent_channels, config.dim)

    def forward(self, latents, mask=None):
        check_clips(latents, mask, self.config.latent_channels)
        return self.with_gate(encode_clips(self.encode, self.out.weight.dtype, mask, latents))

    def encode(self, clips):
        return self.config.gain * self.out(clips.mean((-3, -2, -1)))[:, None]


class Loud(MeanConfig):
    @classmethod
    def tiny(cls):
        return cls(16, 192, gain=3.0)


class LoudEncoder(MeanEncoder):
    config_class = Loud


class Strange:
    pass


class Unfinished(MemoryEncoder):
    pass


class NoSizes(MemoryEncoder):
    @dataclass(frozen=True)
    class config_class:
        width: int = 3
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with encoders, importable as ``mine.encoders``, of which nothing is left afterwards."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").touch()
    (tmp_path / "mine" / "encoders.py").write_text(SOURCE)
    (tmp_path / "mine" / "broken.py").write_text("import no_such_module_at_all")
    monkeypatch.syspath_prepend(tmp_path)
    yield "mine.encoders"
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


@pytest.mark.parametrize("path", ["mine.encoders:MeanEncoder", "mine.encoders.MeanEncoder"])
def test_an_encoder_by_its_path_is_created_saved_and_loaded(package, tmp_path, path):
    encoder = make_encoder(path, "tiny", dim=24, latent_channels=3)
    assert type(encoder).__name__ == "MeanEncoder" and (encoder.config.dim, encoder.config.latent_channels) == (24, 3)
    assert len(check_encoder(encoder).properties) == 13
    x = torch.randn(1, 2, 3, 2, 4, 4)
    saved = encoder.save_pretrained(tmp_path / "saved")
    for given in (path, type(encoder)):
        assert torch.equal(load_encoder(saved, given)(x).tokens, encoder(x).tokens)


def test_presets_are_used_where_there_are_some(package):
    assert make_encoder("mine.encoders:LoudEncoder", "tiny", dim=24).config.gain == 3.0
    with pytest.raises(
        InputError, match=r"Loud has no class method wan_1_3b\(\).*give latent_channels of the backbone"
    ):
        make_encoder("mine.encoders:LoudEncoder", "wan2.1-1.3b", dim=24)


def test_a_file_never_says_what_to_import(package, tmp_path):
    """A folder names its class; without a path from the caller no module is imported, whatever the file holds."""
    make_encoder("mine.encoders:MeanEncoder", "tiny", dim=8, latent_channels=3).save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["_class_name"] == "MeanEncoder" and "mine" not in json.dumps(config)
    for name in list(sys.modules):
        if name.startswith("mine"):
            del sys.modules[name]
    for named in ("MeanEncoder", "mine.encoders:MeanEncoder", "mine.encoders.MeanEncoder"):
        (tmp_path / "saved" / "config.json").write_text(json.dumps({**config, "_class_name": named}))
        with pytest.raises(InputError, match="or your class: load_encoder"):
            load_encoder(tmp_path / "saved")
        assert not any(name.startswith("mine") for name in sys.modules)


def test_memkits_own_folders_load_with_any_path_or_name(package, tmp_path):
    make_encoder("patch", "tiny").save_pretrained(tmp_path / "saved")
    for given in (None, "frequency", "mine.encoders:MeanEncoder"):
        assert type(load_encoder(tmp_path / "saved", given)).__name__ == "PatchEncoder"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("mine.nothing:MeanEncoder", "mine.nothing.*cannot be imported.*PYTHONPATH"),
        ("mine.broken:MeanEncoder", "no_such_module_at_all"),
        ("mine.encoders:Nothing", "has no such class"),
        ("mine.encoders:Strange", "no subclass of memkit.MemoryEncoder"),
        ("mine.encoders:dataclass", "no subclass of memkit.MemoryEncoder"),
        ("mine.encoders:Unfinished", "has no config_class"),
        ("mine.encoders:NoSizes", "lacks dim, latent_channels"),
        ("mine/encoders.py", "no path to a class"),
        (":MeanEncoder", "no path to a class"),
        ("frequncy", "Unknown encoder 'frequncy'.*mypackage.module:MyEncoder"),
    ],
)
def test_paths_that_lead_nowhere_are_named(package, path, says):
    with pytest.raises(InputError, match=says):
        make_encoder(path, "tiny", dim=24, latent_channels=3)
