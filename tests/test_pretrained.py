"""Saving and loading: bit for bit, and every damage is named."""

import json
import math
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import memkit
from memkit.errors import InputError
from memkit.pretrained import Pretrained


@dataclass(frozen=True)
class PartConfig:
    width: int = 4
    sizes: tuple[tuple[int, int], ...] = ((1, 2), (3, 4))
    rate: float = 0.1
    name: str | None = None


class Part(Pretrained, nn.Module):
    config_class = PartConfig

    def __init__(self, config: PartConfig):
        super().__init__()
        self.config = config
        self.linear = nn.Linear(config.width, 3)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))


class Other(Part):
    pass


def make(dtype=torch.float32, **config):
    part = Part(PartConfig(**config)).to(dtype)
    part.steps += 7
    return part


def assert_same(a, b):
    assert type(a) is type(b) and a.config == b.config
    left, right = a.state_dict(), b.state_dict()
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype and torch.equal(left[name], right[name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_round_trip_is_bit_exact(tmp_path, dtype):
    part = make(dtype, width=6, rate=1 / 3, name="é", sizes=((5, 6),))
    with torch.no_grad():
        part.linear.weight[0, 0], part.linear.weight[0, 1] = -0.0, torch.finfo(dtype).smallest_normal / 4  # subnormal
    assert part.save_pretrained(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    loaded = Part.from_pretrained(tmp_path / "a" / "b")
    assert loaded.config == part.config and not loaded.training
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    assert torch.equal(loaded.linear.weight.view(bits), part.linear.weight.view(bits))
    assert loaded.linear.weight.dtype == dtype and loaded.steps == 7
    assert all(p.requires_grad for p in loaded.parameters())


def test_a_config_may_have_no_bound(tmp_path):
    make(rate=math.inf).save_pretrained(tmp_path)  # as the cut-off of a filter
    assert Part.from_pretrained(tmp_path).config.rate == math.inf


def test_the_folder_holds_two_files_and_foreign_files_survive(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    make().save_pretrained(tmp_path)
    make(width=5).save_pretrained(str(tmp_path))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors", "notes.txt"]
    assert Part.from_pretrained(str(tmp_path)).config.width == 5
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.pop("_weights") in (tmp_path / "model.safetensors").read_bytes().decode("latin-1")
    assert config == {
        "_memkit_version": memkit.__version__,
        "_class_name": "Part",
        "width": 5,
        "sizes": [[1, 2], [3, 4]],
        "rate": 0.1,
        "name": None,
    }


def test_equal_modules_give_equal_bytes(tmp_path):
    part = make()
    folders = [part.save_pretrained(tmp_path / str(i)) for i in range(10)]
    for file in ("config.json", "model.safetensors"):
        assert len({(folder / file).read_bytes() for folder in folders}) == 1


def test_loading_leaves_the_random_state(tmp_path):
    make().save_pretrained(tmp_path)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    Part.from_pretrained(tmp_path)
    assert torch.equal(torch.rand(4), expected)


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    old = make()
    old.save_pretrained(tmp_path)

    def full_disk(descriptor):
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        make().save_pretrained(tmp_path)
    assert_same(Part.from_pretrained(tmp_path), old)


def test_a_save_cut_between_the_files_is_noticed(tmp_path):
    make(rate=0.1).save_pretrained(tmp_path)
    make(rate=0.2).save_pretrained(tmp_path / "new")
    (tmp_path / "new" / "model.safetensors").replace(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="another configuration"):
        Part.from_pretrained(tmp_path)


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: c.update(colour=1), f"unknown keys colour.*written by memkit {memkit.__version__}"),
        (lambda c: c.update(colour=1, _memkit_version="9.8.7"), "colour.*written by memkit 9.8.7; this is memkit"),
        (lambda c: [c.update(colour=1), c.pop("_memkit_version")], "colour.*does not say which version"),
        (lambda c: c.update(_class_name="Else"), "'Else', not 'Part'"),
        (lambda c: c.pop("_class_name"), "None, not 'Part'"),
    ],
)
def test_a_config_that_does_not_fit_is_named(tmp_path, change, named):
    make().save_pretrained(tmp_path)
    edit(tmp_path / "config.json", change)
    with pytest.raises(InputError, match=named):
        Part.from_pretrained(tmp_path)


def test_fields_that_an_older_config_lacks_take_their_defaults(tmp_path):
    """A folder as a memkit wrote it whose config class did not have ``rate``, and which did not state its version."""
    make(width=5).save_pretrained(tmp_path)
    edit(tmp_path / "config.json", lambda c: [c.pop("rate"), c.pop("_memkit_version")])
    copy = {"config": (tmp_path / "config.json").read_text()}
    save_file(load_file(tmp_path / "model.safetensors"), tmp_path / "model.safetensors", copy)
    assert Part.from_pretrained(tmp_path).config == PartConfig(width=5, rate=0.1)
    edit(tmp_path / "config.json", lambda c: c.update(rate=0.1))  # stating the default changes nothing
    assert Part.from_pretrained(tmp_path).config == PartConfig(width=5)
    edit(tmp_path / "config.json", lambda c: c.update(rate=0.2))
    with pytest.raises(InputError, match="another configuration"):
        Part.from_pretrained(tmp_path)


def test_a_field_without_a_default_must_be_there(tmp_path):
    @dataclass(frozen=True)
    class Strict:
        width: int

    class StrictPart(Part):
        config_class = Strict

    StrictPart(Strict(4)).save_pretrained(tmp_path)
    edit(tmp_path / "config.json", lambda c: c.pop("width"))
    with pytest.raises(InputError, match="lacks width"):
        StrictPart.from_pretrained(tmp_path)


def test_another_class_is_refused(tmp_path):
    make().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="'Part', not 'Other'"):
        Other.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t.pop("linear.bias"), "lacks linear.bias"),
        (lambda t: t.update(extra=torch.zeros(2)), "unknown extra"),
        (lambda t: t.update({"linear.bias": torch.zeros(9)}), r"linear.bias of shape \(9,\) instead of \(3,\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, change, named):
    make().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=named):
        Part.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "missing", "noise"])
def test_damaged_files_are_named(tmp_path, name, damage):
    make().save_pretrained(tmp_path)
    path = tmp_path / name
    if damage == "missing":
        path.unlink()
    else:
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2] if damage == "cut" else b"\x93" * len(data))
    with pytest.raises(InputError, match=name):
        Part.from_pretrained(tmp_path)
