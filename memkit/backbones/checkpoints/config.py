"""The configuration of a Wan, inferred from the shapes of its original weights, and the published model of that size.

diffusers converts the names of original weights, but not the configuration: without one it asks the hub, and mistakes a
TI2V-5B for a 14B. Here all sizes follow from the shapes, except the head dimension: it is 128 in every published Wan.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from memkit.backbones.presets import PRESETS
from memkit.errors import InputError
from memkit.files.headers import TensorInfo
from memkit.files.tensors import list_names

HEAD_DIM = 128

_NEEDED = (
    "patch_embedding.weight",
    "head.head.weight",
    "text_embedding.0.weight",
    "time_embedding.0.weight",
    "blocks.0.ffn.0.weight",
)


_IMAGE = ("img_emb.proj.1.weight", "img_emb.emb_pos")


def infer_config(state: Mapping[str, Tensor | TensorInfo], where: str = "The state dict") -> dict[str, Any]:
    """Keyword arguments of `WanTransformer3DModel`, inferred from the shapes of original weights.

    Raises `InputError` where a tensor that they follow from is missing or has another number of dimensions.
    """
    missing = [name for name in _NEEDED if name not in state]
    numbers = [int(found[1]) for name in state if (found := re.match(r"blocks\.(\d{1,9})\.", name))]
    if missing or not numbers:
        raise InputError(
            f"{where} is an incomplete checkpoint of an original Wan: it lacks {list_names(missing) or 'all blocks'}; "
            "give the whole checkpoint, for a sharded one its folder."
        )
    patch = tuple(state["patch_embedding.weight"].shape)
    if len(patch) != 5 or any(len(state[name].shape) != 2 for name in _NEEDED[1:]) or not all(patch):
        shapes = {name: tuple(state[name].shape) for name in _NEEDED}
        raise InputError(f"{where} has other shapes than a Wan: {shapes}; give a checkpoint of an original Wan.")
    if flat := [name for name in _IMAGE if name in state and len(state[name].shape) < 2]:
        raise InputError(f"{where} has {flat[0]} of shape {tuple(state[flat[0]].shape)}; give a checkpoint of a Wan.")
    inner, in_channels, *patch_size = patch
    config: dict[str, Any] = {
        "patch_size": tuple(patch_size),
        "num_attention_heads": max(inner // HEAD_DIM, 1),
        "attention_head_dim": min(HEAD_DIM, inner),
        "in_channels": in_channels,
        "out_channels": state["head.head.weight"].shape[0] // (patch_size[0] * patch_size[1] * patch_size[2]),
        "text_dim": state["text_embedding.0.weight"].shape[1],
        "freq_dim": state["time_embedding.0.weight"].shape[1],
        "ffn_dim": state["blocks.0.ffn.0.weight"].shape[0],
        "num_layers": 1 + max(numbers),
        "cross_attn_norm": "blocks.0.norm3.weight" in state,
    }
    if "img_emb.proj.1.weight" in state:
        config["image_dim"] = state["img_emb.proj.1.weight"].shape[1]
        config["added_kv_proj_dim"] = inner
    if "img_emb.emb_pos" in state:
        config["pos_embed_seq_len"] = state["img_emb.emb_pos"].shape[1]
    return config


def matching_presets(config: Mapping[str, Any]) -> list[str]:
    """The names of the published models with this configuration; T2V-14B and the experts of an A14B have the same."""
    optional = ("image_dim", "added_kv_proj_dim", "pos_embed_seq_len")
    names = []
    for name, preset in PRESETS.items():
        wanted = preset().transformer
        if all(config.get(key) == value for key, value in wanted.items() if key in config) and all(
            config.get(key) == wanted.get(key) for key in optional
        ):
            names.append(name)
    return names
