"""Damaged files: a typed error that names the file, whatever is wrong with it, or the very model."""

import argparse
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from memkit.errors import InputError
from tests.helpers.original_wan import random_state
from tests.helpers.wan_files import is_model, load


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Whole files, one per format."""
    folder = tmp_path_factory.mktemp("whole")
    state = random_state(layers=1)
    save_file(state, folder / "a.safetensors", metadata={"x": "y"})
    torch.save(state, folder / "a.pt")
    torch.save(state, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    return folder


def refused_or_right(folder, name: str, data: bytes) -> InputError | None:
    """The error of a changed file; None where it loads, which it may only as the same model."""
    path = folder / f"changed-{name}"
    path.write_bytes(data)
    try:
        found = load(path).state_dict()
    except InputError as error:
        assert path.name in str(error) and "weights_only" not in str(error)
        return error
    want = load(folder / name).state_dict()
    assert all(torch.equal(found[key], want[key]) for key in want)
    return None


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "legacy.pth"])
@given(data=st.data())
@settings(max_examples=60)
def test_a_file_that_is_cut_short_is_refused(folder, name, data):
    whole = (folder / name).read_bytes()
    near = st.sampled_from([0, 1, 7, 8, 9, 40, len(whole) // 2, len(whole) - 1])
    length = data.draw(near | st.integers(0, len(whole) - 1))
    assert refused_or_right(folder, name, whole[:length]) is not None, length


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
@given(data=st.data())
@settings(max_examples=150)
def test_a_flipped_bit_of_the_header_is_refused_or_harmless(folder, name, data):
    whole = bytearray((folder / name).read_bytes())
    if name == "a.safetensors":
        place = data.draw(st.integers(0, 8 + int.from_bytes(whole[:8], "little") - 1))
    else:  # the table of contents is at the end, the pickle at the beginning
        place = data.draw(st.integers(0, 8000) | st.integers(len(whole) - 4000, len(whole) - 1))
    whole[place] ^= 1 << data.draw(st.integers(0, 7))
    refused_or_right(folder, name, bytes(whole))


@given(place=st.integers(10_000, 100_000), bit=st.integers(0, 7))
@settings(max_examples=40)
def test_a_flipped_bit_of_the_values_of_a_torch_file_is_refused_or_harmless(folder, place, bit):
    """Padding between the records is harmless."""
    whole = bytearray((folder / "a.pt").read_bytes())
    whole[place] ^= 1 << bit
    refused_or_right(folder, "a.pt", bytes(whole))


def test_a_flipped_bit_in_a_tensor_of_a_torch_file_is_refused(folder):
    state = {"blocks": torch.ones(1000)}
    torch.save(state, folder / "ones.pt")
    whole = bytearray((folder / "ones.pt").read_bytes())
    at = whole.index(torch.ones(100).numpy().tobytes()) + 50
    whole[at] ^= 0x40
    (folder / "ones.pt").write_bytes(bytes(whole))
    from memkit.files.tensors import read_torch

    with pytest.raises(InputError, match="ones.pt cannot be read: it is damaged .*checksums.*; do this"):
        read_torch(folder / "ones.pt", "do this")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_that_are_not_finite_are_refused(value, dtype):
    state = {name: tensor.to(dtype) for name, tensor in random_state().items()}
    state["blocks.1.ffn.2.weight"][3, 4] = value
    with pytest.raises(InputError, match=r"1 NaN or infinite values of \d+ in blocks.1.ffn.2.weight"):
        load(state)


def test_large_finite_values_are_not_mistaken_for_infinite_ones():
    state = random_state()
    state["blocks.1.ffn.2.weight"][:2] = torch.finfo(torch.float32).max
    assert load(state).blocks[1].ffn.net[2].weight.max() == torch.finfo(torch.float32).max


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 28577092\n"


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.safetensors", POINTER, "Git LFS pointer.*git lfs pull"),
        ("a.pth", POINTER, "Git LFS pointer.*git lfs pull"),
        ("a.pt", b"<!DOCTYPE html><html>Not found</html>", "web page.*download the file again"),
        ("a.safetensors", b"", "is empty; download"),
        ("a.pt", b"\x1f\x8b\x08\x00" + bytes(30), "gzip archive; unpack"),
        ("a.safetensors", b'{"weight_map": {}}', "JSON text without weights"),
        ("a.safetensors", bytes(100), "cut short or damaged"),
        ("notes.txt", b"these are notes of mine", "not a file of weights"),
        ("m.gguf", b"GGUF\3\0\0\0" + bytes(64), "GGUF file that is cut short"),
        ("m.gguf", b"GGUF", "GGUF file that is cut short or damaged"),
    ],
)
def test_what_is_no_file_of_weights_is_named(tmp_path, name, content, what):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name} .*{what}"):
        load(tmp_path / name)


def test_a_torch_file_that_asks_for_code_is_refused_without_torchs_advice(tmp_path):
    torch.save({**random_state(), "args": argparse.Namespace(a=1)}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="a.pt cannot be read: it asks for argparse.Namespace.*nothing was exec") as e:
        load(tmp_path / "a.pt")
    assert "weights_only" not in str(e.value)
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    with pytest.raises(InputError, match="list.pt holds a list, not a state dict"):
        load(tmp_path / "list.pt")
    torch.save({"step": 3, "args": {"lr": 1}}, tmp_path / "empty.pt")
    with pytest.raises(InputError, match="empty.pt holds no tensors, only step, args"):
        load(tmp_path / "empty.pt")


def test_other_zip_archives_and_torchscript_are_named(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("weights/part.bin", "x")
    with pytest.raises(InputError, match="zip archive of weights/part.bin; unpack it"):
        load(tmp_path / "a.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "script.pt")
    with pytest.raises(InputError, match="script.pt .*TorchScript archive, which holds code"):
        load(tmp_path / "script.pt")


def test_the_content_decides_not_the_name(tmp_path):
    torch.save(random_state(), tmp_path / "a.safetensors")
    save_file(random_state(), tmp_path / "b.pt")
    assert is_model(load(tmp_path / "a.safetensors")) and is_model(load(tmp_path / "b.pt"))


def test_sparse_tensors_are_refused():
    state = random_state()
    with pytest.raises(InputError, match="head.head.bias as a sparse tensor"):
        load({**state, "head.head.bias": state["head.head.bias"].to_sparse()})


def test_files_written_without_checksums_are_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(random_state(), tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert is_model(load(tmp_path / "a.pt"))
