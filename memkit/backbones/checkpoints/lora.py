"""LoRAs of original Wan names, loaded by diffusers and peft; here names only get the form that diffusers knows."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import WanPipeline, WanTransformer3DModel
from diffusers.utils import is_peft_available

from memkit.backbones.checkpoints.files import verify
from memkit.backbones.checkpoints.names import unwrapped
from memkit.backbones.checkpoints.plan import open_source
from memkit.backbones.checkpoints.recognise import is_lora
from memkit.errors import InputError
from memkit.files.tensors import check_values, list_names

_FRONT = re.compile(r"^(?:(?:base_model|model|diffusion_model|generator|dit|pipe|transformer)\.)+")
_ADAPTER = re.compile(r"\.(lora_[AB])\.[^.]+\.(weight|bias)$")


def add_lora(model: WanTransformer3DModel, source: str | Path | Mapping[str, Any], adapter_name: str = "lora") -> None:
    """Load a LoRA as an adapter of ``model``, as ``model.load_lora_adapter`` would one with diffusers' names.

    Without an alpha in the file it is that of its rank, as in LongLive (r = α = 256).

    Raises:
        InputError: the file is no LoRA, holds several, or layers of it do not fit the model; the message names them.
    """
    if not is_peft_available():
        raise InputError("To load a LoRA, `pip install peft`.")
    opened = open_source(source)
    verify(opened)
    if not is_lora(opened.tensors):
        raise InputError(f"{opened.where} is no LoRA: no lora_A or lora_down among its names; give one as lora=.")
    names = _generator(opened.where, opened.tensors)
    front = "transformer." if any(re.search(r"\.attn[12]\.", name) for name in names) else "diffusion_model."
    layers = {_common(name, front): opened.read(name) for name in names}
    check_values(layers.items(), opened.where)
    if whole := sorted(name for name, layer in layers.items() if not layer.is_floating_point() and layer.ndim):
        raise InputError(f"{opened.where} holds {whole[0]} as {layers[whole[0]].dtype}; give a LoRA of floats.")
    try:
        converted = WanPipeline.lora_state_dict(layers)
        model.load_lora_adapter(converted, prefix="transformer", adapter_name=adapter_name)
    except Exception as error:  # of diffusers and peft
        why = " ".join(str(error).split())[:300]
        raise InputError(f"{opened.where} is a LoRA that does not fit this model: {why}.") from error
    if skipped := [name for name in names if name.endswith(".diff") or re.search(r"norm.*\.diff_b$", name)]:
        warnings.warn(
            f"{opened.where} changes weights directly at {list_names(skipped)}, which diffusers does not apply.",
            stacklevel=4,
        )
    loaded = {name.replace(f".{adapter_name}.", ".") for name, _ in model.named_parameters() if "lora_" in name}
    if missing := sorted({name.removeprefix("transformer.") for name in converted} - loaded):
        model.delete_adapters(adapter_name)
        raise InputError(
            f"{opened.where} is a LoRA with layers that this model has not: {list_names(missing)}; give a LoRA that "
            "was trained for a model of this size."
        )


def _generator(where: str, names: Mapping[str, Any]) -> list[str]:
    """The names of the LoRA of the generator, where there is one of the critic too."""
    heads = {name.split(".")[0] for name in names}
    wanted = next((head for head in ("generator_lora", "generator_ema", "generator") if head in heads), None)
    if wanted is not None:
        return [name for name in names if name.startswith(f"{wanted}.")]
    several = sorted(head for head in heads if head.endswith("lora"))
    if len(several) > 1:
        raise InputError(f"{where} holds several LoRAs: {list_names(several)}; give one of them as a state dict.")
    return list(names)


def _common(name: str, front: str) -> str:
    """``diffusion_model.blocks.…lora_A.weight``, the form of ComfyUI, or ``transformer.…`` for diffusers' names."""
    if name.startswith("lora_unet_"):
        return name
    name = unwrapped(name).removeprefix("generator_lora.").removeprefix("lora.")
    return front + _ADAPTER.sub(r".\1.\2", _FRONT.sub("", name))
