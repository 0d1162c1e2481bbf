"""Tensors on disk: a header that is checked, and files that are never run."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from memkit.errors import InputError
from memkit.files.tensors import FileKind, open_tensors, read_state_dict, read_torch, save_tensors

KIND = FileKind("saved thing", "memkit-thing", 3)


def saved(path: Path, kind: FileKind = KIND, key: str = "thing") -> Path:
    save_tensors(path, kind, key, {"names": ["é"], "rate": 1 / 3}, {"a": torch.arange(6.0).view(2, 3).T})
    return path


def test_header_and_tensors_come_back(tmp_path):
    with open_tensors(saved(tmp_path / "t"), KIND, "thing") as (header, file):
        assert header == {"format": "memkit-thing", "version": 3, "names": ["é"], "rate": 1 / 3}
        assert torch.equal(file.get_tensor("a"), torch.arange(6.0).view(2, 3).T)
    assert [p.name for p in tmp_path.iterdir()] == ["t"]


def opened(path: Path) -> None:
    with open_tensors(path, KIND, "thing") as (header, file):
        assert header["names"]
        file.get_tensor("a")


def test_what_is_no_such_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"^There is no saved thing at .*nowhere; check the path\.$"):
        opened(tmp_path / "nowhere")
    for other in (KIND._replace(version=2), KIND._replace(format="memkit-other")):
        with pytest.raises(InputError, match="t is no memkit-thing of version 3; save it with this memkit"):
            opened(saved(tmp_path / "t", other))
    (tmp_path / "noise").write_bytes(b"noise")
    save_file({"a": torch.zeros(1)}, tmp_path / "plain")
    for path in (tmp_path / "noise", tmp_path / "plain", saved(tmp_path / "key", key="other")):
        with pytest.raises(InputError, match=f"{path.name} is no saved thing, or is damaged .*; save it again"):
            opened(path)
    with (
        pytest.raises(InputError, match="is damaged"),
        open_tensors(saved(tmp_path / "t"), KIND, "thing") as (header, _),
    ):
        _ = header["missing"]  # what the reader finds wrong counts too
    with pytest.raises(InputError, match="Cannot write .*; give a place that can be written"):
        saved(tmp_path / "no" / "folder")


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("read", [read_torch, read_state_dict])
def test_code_in_a_torch_file_is_refused(tmp_path, read):
    torch.save({"a": Payload(tmp_path / "ran")}, tmp_path / "evil.pt")
    with pytest.raises(
        InputError, match="evil.pt cannot be read: it asks for .*mkdir.*nothing was executed; do this"
    ) as e:
        read(tmp_path / "evil.pt", "do this")
    assert not (tmp_path / "ran").exists() and "weights_only" not in str(e.value)


def test_a_state_dict_is_read_from_either_kind_of_file(tmp_path):
    state = {"a": torch.randn(2), "b": torch.zeros(0)}
    torch.save(state, tmp_path / "s.pt")
    save_file(state, tmp_path / "s.safetensors")
    for name in ("s.pt", "s.safetensors"):
        found = read_state_dict(tmp_path / name, "do this")
        assert found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state)
    for name in ("cut.pt", "cut.safetensors", "none.pt", "none.safetensors"):
        if name.startswith("cut"):
            (tmp_path / name).write_bytes((tmp_path / f"s.{name.split('.')[1]}").read_bytes()[:40])
        with pytest.raises(InputError, match=f"{name} cannot be read.*; do this"):
            read_state_dict(tmp_path / name, "do this")
    for content in ([torch.zeros(1)], {"a": 1}, {"a": {"b": torch.zeros(1)}}):
        torch.save(content, tmp_path / "other.pt")
        with pytest.raises(InputError, match="other.pt holds no state dict; do this"):
            read_state_dict(tmp_path / "other.pt", "do this")


def test_a_safetensors_file_is_one_whatever_the_length_of_its_header(tmp_path):
    """One of 32 begins with the byte that begins a pickle."""
    starts = set()
    for n in range(0, 256, 8):
        save_file({"a": torch.ones(2)}, tmp_path / "t", {"note": "x" * n})
        starts.add((tmp_path / "t").read_bytes()[:1])
        assert torch.equal(read_state_dict(tmp_path / "t", "again")["a"], torch.ones(2))
    assert b"\x80" in starts
