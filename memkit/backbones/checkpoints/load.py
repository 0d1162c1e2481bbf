"""Load checkpoints with the original parameter names (Wan-Video's and what derives from them) as stock models."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import GGUFQuantizationConfig, WanTransformer3DModel

from memkit.backbones.checkpoints.files import verify
from memkit.backbones.checkpoints.lora import add_lora
from memkit.backbones.checkpoints.plan import Plan, open_source, plan
from memkit.errors import InputError
from memkit.files.tensors import check_values


def load_original(
    source: str | Path | Mapping[str, Any],
    config: Mapping[str, Any] | None = None,
    torch_dtype: torch.dtype | None = None,
    *,
    weights: str | None = None,
    lora: str | Path | Mapping[str, Any] | None = None,
) -> WanTransformer3DModel:
    """Build a `WanTransformer3DModel` from original Wan weights.

    Prefixes of the names, such as ``model.diffusion_model.`` or ``model._fsdp_wrapped_module.``, are taken off, at any
    place where FSDP, DDP or torch.compile put them. What a checkpoint holds beside the transformer, such as the VAE of
    an all-in-one file or the state of an optimizer, is not read.

    Args:
        source: a file (``.safetensors``; ``.pt``, ``.pth``, ``.ckpt``: tensors only, nothing in it is executed;
            ``.gguf``, which stays quantised), a folder with one checkpoint, in shards or whole, the
            ``.index.json`` of a sharded one, or a state dict, which may be nested.
        config: keyword arguments of `WanTransformer3DModel`, which override those inferred from the shapes.
        torch_dtype: dtype of the weights; by default that of the checkpoint, and bf16 to compute with GGUF. As in
            diffusers' ``from_pretrained``, norms, the time embedder and the modulation tables stay in fp32.
        weights: which weights to load of a checkpoint that holds several, such as "generator" or "generator_ema"; by
            default the first that is there of ``generator_ema``, ``ema``, ``model_ema``, ``generator``, ``model``,
            ``state_dict``, with a warning if the others differ.
        lora: a LoRA to load on top as an adapter, in any layout that diffusers converts, or as trained with peft under
            original names (LongLive); a file, or its state dict.

    Raises:
        InputError: the message names the file, what it is and the remedy: there is none, it is damaged or cut short, it
            is not a Wan that the stock class can hold, tensors are missing, left over or of another shape, or values
            are NaN or infinite.
    """
    if torch_dtype is not None and not (isinstance(torch_dtype, torch.dtype) and torch_dtype.is_floating_point):
        raise InputError(f"torch_dtype is {torch_dtype!r}; give one of floating point, such as torch.bfloat16.")
    opened = open_source(source)
    decided = plan(opened, config, torch_dtype, weights)
    verify(opened)
    model = _load_gguf(decided, torch_dtype) if opened.format == "GGUF" else _load(decided, torch_dtype)
    if lora is not None:
        add_lora(model, lora)
    return model.eval()


def _load(decided: Plan, torch_dtype: torch.dtype | None) -> WanTransformer3DModel:
    read = decided.source.read
    dtype = torch_dtype or read(decided.names["patch_embedding.weight"]).dtype
    weights = {}
    for name, full in decided.names.items():
        stored = read(full).detach()
        value = stored.to(torch.float32 if _stays_fp32(name) else dtype)
        check_values([(full, value)], decided.source.where)
        # torch.save overwrites files in place, under the feet of a mapping; safetensors stay mapped, as in diffusers
        mapped = decided.source.format == "torch" and value.dtype == stored.dtype
        weights[name] = value.clone() if mapped else value
    model = decided.model
    model.load_state_dict(weights, strict=True, assign=True)
    # The rotary tables are buffers that no checkpoint contains.
    model.rope = WanTransformer3DModel(**{**decided.settings, "num_layers": 0}).rope
    return model


def _load_gguf(decided: Plan, torch_dtype: torch.dtype | None) -> WanTransformer3DModel:
    """By diffusers' own loader. Linear layers stay quantised; others, which it cannot run so, are dequantised."""
    from diffusers.quantizers.gguf.utils import dequantize_gguf_tensor

    linear = {f"{name}.weight" for name, part in decided.model.named_modules() if isinstance(part, torch.nn.Linear)}
    weights: Any = {}
    for name, full in decided.names.items():
        value = decided.source.read(full)
        weights[name] = value if name in linear else dequantize_gguf_tensor(value)
        if not hasattr(weights[name], "quant_type"):
            check_values([(full, weights[name])], decided.source.where)
    dtype = torch_dtype or torch.bfloat16
    with tempfile.TemporaryDirectory() as folder:
        decided.model.save_config(folder)
        return WanTransformer3DModel.from_single_file(
            weights, config=folder, quantization_config=GGUFQuantizationConfig(compute_dtype=dtype), dtype=dtype
        )


def _stays_fp32(name: str) -> bool:
    keep = WanTransformer3DModel._keep_in_fp32_modules or []
    return any(part in keep for part in name.split("."))
