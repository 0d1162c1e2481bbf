"""`load_echo_memory`: Echo-Memory's public checkpoints, as a stock Wan and an `EchoMemory`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel

from memkit.backbones.adapters.wan import WAN
from memkit.backbones.checkpoints.load import load_original
from memkit.backbones.checkpoints.plan import open_source
from memkit.errors import InputError
from memkit.files.tensors import load_exactly
from memkit.injectors.echo_memory.config import ROWS, EchoConfig
from memkit.injectors.echo_memory.module import EchoMemory

_ADDED = re.compile(r"blocks\.\d+\.(action_mlp|self_attn_with_action|block_wise_ssm)\.")
_OTHER_ROWS = ("spatial_memory_module.", "videossm_hybrid")


def load_echo_memory(
    source: str | Path | Mapping[str, Any],
    row: str | None = None,
    config: Mapping[str, Any] | None = None,
    torch_dtype: torch.dtype | None = None,
) -> tuple[WanTransformer3DModel, EchoMemory]:
    """The transformer and the memory of a checkpoint of Echo-Memory (hub: Echo-Team/Echo-Memory).

    Args:
        source: the file, such as ``context_k1/epoch-0.safetensors``, its folder, or its state dict.
        row: name of the row, one of `ROWS`, which says how context frames are placed; by default the name of the
            folder. The weights do not tell: those of ``context_k1`` and ``framepack_len_r8`` have equal names.
        config: keyword arguments of `WanTransformer3DModel`, which override those inferred from the shapes.
        torch_dtype: dtype of the weights; by default that of the checkpoint (bf16).

    Raises:
        InputError: the row is not known or is not that of the weights, or the file is none of a Wan; see
            `memkit.backbones.checkpoints.load.load_original`.
    """
    opened = open_source(source)
    if row is None and not isinstance(source, Mapping):
        path = Path(source).resolve()
        row = next((name for name in (path.name, path.parent.name) if name in ROWS), None)
    if row not in ROWS:
        raise InputError(
            f"The row is {row!r}, and says how context frames are placed: keep the file in its folder, or give row=, "
            f"one of {', '.join(ROWS)}."
        )
    if other := next((name for name in opened.tensors if any(part in name for part in _OTHER_ROWS)), None):
        raise InputError(f"{opened.where} has {other}: it is of a row of Echo-Memory that is not built here.")
    added = {name for name in opened.tensors if _ADDED.match(name)}
    own = ROWS[row]()
    if bool(own.state_every) != any("block_wise_ssm" in name for name in added):
        raise InputError(f"{opened.where} is not of the row {row!r}, which only one of the two has a recurrence for.")
    if own.state_every and not any(name.endswith(".residual_logit") for name in added):
        raise InputError(f"{opened.where} has the older recurrence, without residual_logit; give one of causal_v2.")
    stock = {name: opened.read(name) for name in opened.tensors if name not in added}
    model = load_original(stock, config, torch_dtype)
    sizes = WAN.sizes(model)
    settings: EchoConfig = replace(own, dim=sizes.width, blocks=sizes.layers, heads=sizes.heads)
    with torch.device("meta"):
        memory = EchoMemory(settings)
    weights = {name: opened.read(name).detach().clone() for name in added}
    load_exactly(memory, {n: x if torch_dtype is None else x.to(torch_dtype) for n, x in weights.items()}, opened.where)
    return model, memory.eval()
