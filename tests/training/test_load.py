"""Models are loaded in the dtype of the run, and only what training uses moves to its device."""

from __future__ import annotations

import dataclasses
import resource
import signal

import pytest
import torch

from memkit.errors import FileError
from memkit.files.checksums import SUMS_FILE
from memkit.training import Settings, load_backbone, load_trainable, save_part, save_torch
from tests.helpers.forked import code_of, process


def test_models_are_loaded_in_the_dtype_of_the_run(random_folder) -> None:
    config = dataclasses.replace(Settings(), model=str(random_folder), dtype="bf16", device="cpu")
    pipe = load_backbone(config).pipeline()
    assert pipe.transformer.patch_embedding.weight.dtype == pipe.text_encoder.dtype == torch.bfloat16
    assert not any(p.requires_grad for part in (pipe.transformer, pipe.vae) for p in part.parameters())


def test_what_training_does_not_use_stays_on_the_cpu(random_folder) -> None:
    config = dataclasses.replace(Settings(), model=str(random_folder), dtype="bf16")
    meta = torch.device("meta")  # any other than the CPU
    for sharded in (False, True):
        pipe = load_trainable(config, meta, sharded).pipeline()
        assert pipe.vae.device.type == "cpu" and pipe.text_encoder.device == meta
        assert pipe.transformer.device.type == ("cpu" if sharded else "meta")
        assert {p.dtype for p in pipe.transformer.parameters()} == {torch.float32}
        assert pipe.text_encoder.dtype == torch.bfloat16 and all(p.requires_grad for p in pipe.transformer.parameters())


@pytest.mark.parametrize("name", ["config.json", "diffusion_pytorch_model.safetensors"])
def test_a_trained_transformer_that_is_damaged_is_named(random_folder, tmp_path, name: str) -> None:
    config = dataclasses.replace(Settings(), model=str(random_folder), device="cpu")
    save_part(load_backbone(config).transformer, {}, "", tmp_path / "transformer")
    assert load_backbone(config, trained=tmp_path).width == 48
    file = tmp_path / "transformer" / name
    whole = file.read_bytes()
    file.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    with pytest.raises(FileError, match=f"{name} does not match its checksum"):
        load_backbone(config, trained=tmp_path)
    (tmp_path / "transformer" / SUMS_FILE).unlink()  # as a run of before has none
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileError, match="transformer.* (restore the folder|download the file) "):
        load_backbone(config, trained=tmp_path)


def test_a_part_that_cannot_be_written_is_named(random_folder, tmp_path) -> None:
    config = dataclasses.replace(Settings(), model=str(random_folder), device="cpu")
    (tmp_path / "file").write_text("")
    transformer = load_backbone(config).transformer
    with pytest.raises(FileError, match="Cannot write .*file"):
        save_part(transformer, {}, "", tmp_path / "file" / "transformer")
    code = code_of(process(lambda: _save_on_a_full_disk(transformer, tmp_path / "full")))
    assert code == 0


def _save_on_a_full_disk(transformer, folder) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
    for save in (
        lambda: save_part(transformer, {}, "", folder),
        lambda: save_torch(torch.zeros(10_000), folder.with_name("checkpoint.pt")),
    ):
        with pytest.raises(FileError, match="Cannot write"):
            save()
    assert not list(folder.parent.glob("*checkpoint*"))
