"""Folders: shards with an index and without, and what lies in a folder beside one checkpoint."""

import json

import pytest
import torch
from safetensors.torch import save_file

from memkit.errors import InputError
from tests.helpers.original_wan import random_state
from tests.helpers.wan_files import is_model, load

STEM = "diffusion_pytorch_model"


def write_shards(folder, count=3, stem=STEM, seed=0, index=True):
    """`random_state` in shards; returns their names."""
    folder.mkdir(exist_ok=True)
    state, where = random_state(seed=seed), {}
    for i in range(count):
        name = f"{stem}-{i + 1:05}-of-{count:05}.safetensors"
        part = {key: state[key] for key in sorted(state)[i::count]}
        save_file(part, folder / name)
        where |= dict.fromkeys(part, name)
    if index:
        text = json.dumps({"metadata": {"total_size": 1}, "weight_map": where})
        (folder / f"{stem}.safetensors.index.json").write_text(text)
    return sorted(set(where.values()))


@pytest.mark.parametrize("index", [True, False])
def test_shards_are_one_checkpoint(tmp_path, index):
    write_shards(tmp_path, index=index)
    assert is_model(load(tmp_path))
    if index:
        assert is_model(load(tmp_path / f"{STEM}.safetensors.index.json"))


@pytest.mark.parametrize("index", [True, False])
def test_a_missing_shard_is_named(tmp_path, index):
    names = write_shards(tmp_path, index=index)
    (tmp_path / names[1]).unlink()
    with pytest.raises(InputError, match=names[1] if index else f"lacks shards 2 of 3 of {STEM}"):
        load(tmp_path)


def test_with_an_index_a_stale_file_is_not_read(tmp_path):
    write_shards(tmp_path)
    save_file(random_state(seed=9), tmp_path / "old.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"broken")
    assert is_model(load(tmp_path))


def test_without_an_index_a_stale_file_is_refused(tmp_path):
    write_shards(tmp_path, index=False)
    save_file(random_state(seed=9), tmp_path / "old.safetensors")
    with pytest.raises(InputError, match="more than one checkpoint: .*old.safetensors"):
        load(tmp_path)


def test_shards_of_two_checkpoints_are_refused(tmp_path):
    write_shards(tmp_path, index=False)
    write_shards(tmp_path, stem="other", seed=1, index=False)
    with pytest.raises(InputError, match="files are of more than one checkpoint"):
        load(tmp_path)
    write_shards(tmp_path)
    write_shards(tmp_path, stem="other", seed=1)
    with pytest.raises(InputError, match="several sharded checkpoints.*other.safetensors.index.json"):
        load(tmp_path)
    assert is_model(load(tmp_path / "other.safetensors.index.json"), seed=1)


def test_files_that_hold_the_same_tensor_are_refused_and_others_are_joined(tmp_path):
    state = random_state()
    names = sorted(state)
    save_file({name: state[name] for name in names[::2]}, tmp_path / "a.safetensors")
    save_file({name: state[name] for name in names[1::2]}, tmp_path / "b.safetensors")
    assert is_model(load(tmp_path))
    save_file(state, tmp_path / "b.safetensors")
    with pytest.raises(InputError, match=r"a.safetensors and b.safetensors both have \S+; give one of the files"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("high", "low"),
    [
        ("wan2.2_t2v_high_noise_14B_fp16.safetensors", "wan2.2_t2v_low_noise_14B_fp16.safetensors"),
        ("Wan2_2-T2V-A14B-HIGH-noise.safetensors", "Wan2_2-T2V-A14B-LOW-noise.safetensors"),
        ("Wan2_2-I2V-A14B-HIGH_bf16.safetensors", "Wan2_2-I2V-A14B-LOW_bf16.safetensors"),
        ("high_noise_model", "low_noise_model"),
    ],
)
def test_both_experts_in_one_folder_are_named(tmp_path, high, low):
    for seed, name in enumerate((high, low)):
        if name.endswith("safetensors"):
            save_file(random_state(seed=seed), tmp_path / name)
        else:
            write_shards(tmp_path / name, seed=seed)
    with pytest.raises(InputError, match=f"both experts of a Wan2.2 A14B, {high} and {low}.*transformer_2"):
        load(tmp_path)
    for seed, name in enumerate((high, low)):
        assert is_model(load(tmp_path / name), seed)


def test_other_files_of_a_release_are_not_taken_for_weights(tmp_path):
    """As in the folder of Wan2.1-T2V-1.3B: config.json, the VAE and the text encoder as .pth."""
    save_file(random_state(), tmp_path / f"{STEM}.safetensors")
    (tmp_path / "config.json").write_text('{"_class_name": "WanModel", "dim": 48}')
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "Wan2.1_VAE.pth")
    assert is_model(load(tmp_path))


def test_a_folder_with_one_torch_file(tmp_path):
    torch.save({"generator": random_state()}, tmp_path / "model.pt")
    assert is_model(load(tmp_path))
    torch.save({}, tmp_path / "other.pt")
    with pytest.raises(InputError, match="several files of weights; give one of them: model.pt, other.pt"):
        load(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": "../a.safetensors"}}', '{"weight_map": {"a": 3}}'],
)
def test_a_damaged_index_is_named(tmp_path, text):
    (tmp_path / "x.safetensors.index.json").write_text(text)
    with pytest.raises(InputError, match="x.safetensors.index.json .*fetch the index again"):
        load(tmp_path)


def test_an_index_that_promises_more_than_its_shards_hold(tmp_path):
    write_shards(tmp_path)
    file = tmp_path / f"{STEM}.safetensors.index.json"
    content = json.loads(file.read_text())
    content["weight_map"]["blocks.9.extra"] = f"{STEM}-00001-of-00003.safetensors"
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match="lack blocks.9.extra"):
        load(tmp_path)


def test_folders_without_a_checkpoint(tmp_path, random_folder):
    with pytest.raises(InputError, match="holds no .safetensors file"):
        load(tmp_path)
    with pytest.raises(InputError, match="pipeline in diffusers' format.*from_pretrained"):
        load(random_folder)
    with pytest.raises(InputError, match="own format.*from_pretrained"):
        load(random_folder / "transformer")
    (tmp_path / "__0_0.distcp").write_bytes(b"x")
    with pytest.raises(InputError, match="torch.distributed.checkpoint.*dcp_to_torch"):
        load(tmp_path)


def test_both_experts_as_torch_files_and_a_folder_with_both_kinds_of_index(tmp_path):
    for name in ("HighNoise-Q8_0.gguf", "LowNoise-Q8_0.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(InputError, match="both experts of a Wan2.2 A14B, HighNoise-Q8_0.gguf and LowNoise"):
        load(tmp_path)
    write_shards(tmp_path)
    (tmp_path / "pytorch_model.bin.index.json").write_text("{}")
    assert is_model(load(tmp_path))


def test_shards_as_torch_files(tmp_path):
    state = random_state()
    names = sorted(state)
    for i in (0, 1):
        torch.save({name: state[name] for name in names[i::2]}, tmp_path / f"pytorch_model-0000{i + 1}-of-00002.bin")
    where = {name: f"pytorch_model-0000{i % 2 + 1}-of-00002.bin" for i, name in enumerate(names)}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    assert is_model(load(tmp_path))
