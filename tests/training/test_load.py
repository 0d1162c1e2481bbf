"""Models are loaded in the dtype of the run, and only what training uses moves to its device."""

from __future__ import annotations

import dataclasses

import torch

from memkit.training import Settings, load_backbone, load_trainable


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
