"""Load Wan checkpoints with the original parameter names (the Wan-Video release) as stock diffusers models.

diffusers converts the names, but not the configuration: without one it asks the hub, and mistakes a TI2V-5B for a 14B.
Here all sizes are inferred from the shapes, except the head dimension, which is 128 in every published Wan.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from safetensors.torch import load_file
from torch import Tensor

from memkit.errors import InputError
from memkit.tensor_file import read_state_dict

_PREFIX = "model.diffusion_model."


def load_original(
    source: str | Path | Mapping[str, Tensor],
    config: Mapping[str, Any] | None = None,
    torch_dtype: torch.dtype | None = None,
) -> WanTransformer3DModel:
    """Build a `WanTransformer3DModel` from original Wan weights.

    Args:
        source: a state dict, a ``.safetensors`` file, a ``.pt``/``.pth`` file (tensors only; nothing in it is
            executed), or a folder of one or more ``.safetensors`` files.
        config: keyword arguments of `WanTransformer3DModel`, which override those inferred from the shapes.
        torch_dtype: dtype of the weights; by default that of the checkpoint. As in diffusers' ``from_pretrained``,
            norms, the time embedder and the modulation tables stay in fp32.

    Raises:
        InputError: there is no such file, it is not a Wan checkpoint, or tensors are missing, left over or of another
            shape; the message names them.
    """
    state = {name.removeprefix(_PREFIX): value for name, value in _read(source).items()}
    if "patch_embedding.weight" not in state or "head.head.weight" not in state:
        raise InputError(
            "The parameter names are not those of an original Wan checkpoint: patch_embedding.weight or "
            f"head.head.weight is missing among {sorted(state)[:4]}…; "
            "for a diffusers folder, use WanBackbone.from_pretrained."
        )
    settings = {**infer_config(state), **(config or {})}
    with torch.device("meta"):
        model = WanTransformer3DModel(**settings)
    dtype = torch_dtype or state["patch_embedding.weight"].dtype
    converted = convert_wan_transformer_to_diffusers(dict(state))
    expected = dict(model.named_parameters())
    missing, unexpected = expected.keys() - converted.keys(), converted.keys() - expected.keys()
    wrong = [n for n in expected.keys() & converted.keys() if expected[n].shape != converted[n].shape]
    if missing or unexpected or wrong:
        raise InputError(
            f"The checkpoint does not fit {settings}: missing {sorted(missing)[:5]}, "
            f"left over {sorted(unexpected)[:5]}, of another shape {sorted(wrong)[:5]}; pass a config= that fits."
        )
    keep = WanTransformer3DModel._keep_in_fp32_modules or []
    converted = {
        n: v.to(torch.float32 if any(part in n.split(".") for part in keep) else dtype) for n, v in converted.items()
    }
    model.load_state_dict(converted, strict=True, assign=True)
    # The rotary tables are buffers that no checkpoint contains.
    model.rope = WanTransformer3DModel(**{**settings, "num_layers": 0}).rope
    return model.eval()


def infer_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Keyword arguments of `WanTransformer3DModel`, inferred from the shapes of original weights."""
    patch = state["patch_embedding.weight"]
    inner, in_channels = patch.shape[:2]
    patch_size = tuple(patch.shape[2:])
    layers = 1 + max(int(m[1]) for n in state if (m := re.match(r"blocks\.(\d+)\.", n)))
    head_dim = 128
    config: dict[str, Any] = {
        "patch_size": patch_size,
        "num_attention_heads": max(inner // head_dim, 1),
        "attention_head_dim": min(head_dim, inner),
        "in_channels": in_channels,
        "out_channels": state["head.head.weight"].shape[0] // (patch_size[0] * patch_size[1] * patch_size[2]),
        "text_dim": state["text_embedding.0.weight"].shape[1],
        "freq_dim": state["time_embedding.0.weight"].shape[1],
        "ffn_dim": state["blocks.0.ffn.0.weight"].shape[0],
        "num_layers": layers,
        "cross_attn_norm": "blocks.0.norm3.weight" in state,
    }
    if "img_emb.proj.1.weight" in state:
        config["image_dim"] = state["img_emb.proj.1.weight"].shape[1]
        config["added_kv_proj_dim"] = inner
    if "img_emb.emb_pos" in state:
        config["pos_embed_seq_len"] = state["img_emb.emb_pos"].shape[1]
    return config


def _read(source: str | Path | Mapping[str, Tensor]) -> dict[str, Tensor]:
    if isinstance(source, Mapping):
        return dict(source)
    path = Path(source)
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        if not files:
            raise InputError(f"{path} holds no .safetensors file.")
        return {name: value for file in files for name, value in load_file(file).items()}
    if not path.is_file():
        raise InputError(f"There is no file {path}.")
    return read_state_dict(path, "give a checkpoint of an original Wan: a flat dictionary of tensors")
