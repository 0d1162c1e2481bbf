"""Features that change, store or move weights: LoRA, quantisation, casting and offloading."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import gguf
import torch
from bitsandbytes.nn import Linear4bit
from diffusers import GGUFQuantizationConfig, WanTransformer3DModel
from peft import LoraConfig
from torch import Tensor, nn
from torchao.quantization import Int8WeightOnlyConfig, quantize_

from tests.compat.declared import Feature
from tests.helpers.original_wan import random_state
from tests.helpers.random_wan import random_transformer

CPU = torch.device("cpu")
FP8 = torch.float8_e4m3fn
ROUNDING = 1e-5
"""Between two ways to multiply by the same weights in fp32; memory changes the outputs a thousand times as much."""


def dense(featured: Any, **changes: Any) -> WanTransformer3DModel:
    """A stock model with the weights that the linear layers of the featured model act with.

    They are read from what the layers return for the identity, so this knows nothing of how they are stored.
    """
    plain: Any = random_transformer(**changes)
    own = plain.state_dict()
    stored = {n: x for n, x in featured.state_dict().items() if n in own and type(x) is Tensor}
    same = {n: x for n, x in stored.items() if (x.dtype, x.shape) == (own[n].dtype, own[n].shape)}
    plain.load_state_dict(same, strict=False)
    for name, block in plain.blocks.named_modules():
        if isinstance(block, nn.Linear):
            block.weight.data, block.bias.data = _acting(featured.blocks, name, block.in_features)
    return plain


@torch.no_grad()
def _acting(blocks: nn.Module, name: str, width: int) -> tuple[Tensor, Tensor]:
    parent, _, last = name.rpartition(".")
    fused = {"to_q": ("to_qkv", 0, 3), "to_k": ("to_qkv", 1, 3), "to_v": ("to_qkv", 2, 3)}
    if getattr(attn := blocks.get_submodule(parent), "is_cross_attention", False):
        fused = {"to_k": ("to_kv", 0, 2), "to_v": ("to_kv", 1, 2)}
    whole, part, parts = fused.get(last, ("", 0, 1))
    linear: Any = getattr(attn, whole if parts > 1 and hasattr(attn, whole) else last)
    out = linear(torch.cat([torch.zeros(1, width), torch.eye(width)]))
    out = out.chunk(parts, dim=-1)[part] if linear is getattr(attn, whole, None) else out
    return (out[1:] - out[0]).T.contiguous(), out[0].clone()


# -- LoRA ----------------------------------------------------------------------------------------------------------


def lora(*targets: str, fuse: bool = False) -> Callable[[Any, Path], Any]:
    """A LoRA whose matrices are random: it acts."""

    def apply(model: Any, _: Path) -> Any:
        torch.manual_seed(8)
        model.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=list(targets), init_lora_weights=False))
        model.fuse_lora() if fuse else None
        return model

    return apply


def fused(then: Callable[[Any, Path], Any]) -> Callable[[Any, Path], Any]:
    """Another feature of a model whose projections are fused to ``to_qkv`` first."""

    def apply(model: Any, folder: Path) -> Any:
        model.fuse_qkv_projections()
        return then(model, folder)

    return apply


EACH = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.2")

LORA = {
    "lora": Feature("peft LoRA", lora(*EACH), dense, ROUNDING),
    "lora_fused": Feature("peft LoRA, fused into the weights", lora(*EACH, fuse=True), dense, ROUNDING),
    "qkv": Feature("`fuse_qkv_projections`", fused(lambda model, _: model), dense, ROUNDING),
    "lora_on_qkv": Feature("peft LoRA on the fused `to_qkv`", fused(lora("to_qkv", "ffn.net.2")), dense, ROUNDING),
}

# -- casting and quantisation --------------------------------------------------------------------------------------


def cast(model: Any, _: Path) -> Any:
    """Layerwise casting, as of a model in fp32: weights in fp8 between the calls of their layers."""
    model.enable_layerwise_casting(storage_dtype=FP8, compute_dtype=torch.float32)
    return model


def int8(model: Any, _: Path) -> Any:
    """torchao's weights in int8, of the blocks, as diffusers' ``TorchAoConfig`` makes them."""
    quantize_(model.blocks, Int8WeightOnlyConfig())
    return model


def nf4(model: Any, _: Path) -> Any:
    """bitsandbytes' layers with weights in nf4, which diffusers' ``BitsAndBytesConfig`` makes where there is a GPU."""
    for name, linear in list(model.blocks.named_modules()):
        if isinstance(linear, nn.Linear):
            four = Linear4bit(linear.in_features, linear.out_features, quant_type="nf4", compute_dtype=torch.float32)
            four.load_state_dict(linear.state_dict())
            model.blocks.set_submodule(name, four.to(CPU))
    return model


WIDER = {"num_attention_heads": 4}
"""A width that is a multiple of the 32 weights of a block of Q8_0."""


def from_gguf(model: Any, folder: Path) -> Any:
    """Another model of the same sizes, loaded from a GGUF file with the linear layers of its blocks in Q8_0."""
    model.save_config(folder / "transformer")
    writer = gguf.GGUFWriter(folder / "model.gguf", "wan")
    kind = gguf.GGMLQuantizationType.Q8_0
    for name, x in random_state(dim=96, heads=4, layers=model.config.num_layers).items():
        if x.ndim == 2 and "blocks" in name:
            writer.add_tensor(name, gguf.quants.quantize(x.numpy(), kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, x.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return WanTransformer3DModel.from_single_file(
        str(folder / "model.gguf"),
        config=str(folder / "transformer"),
        quantization_config=GGUFQuantizationConfig(compute_dtype=torch.float32),
        dtype=torch.float32,
    ).eval()


NF4_NOTE = "diffusers' own loader needs a GPU; the layers that it makes are checked on a CPU."

WEIGHTS = {
    "fp8": Feature("layerwise casting to fp8", cast, dense, ROUNDING),
    "fp8_qkv": Feature("layerwise casting to fp8, fused `to_qkv`", fused(cast), dense, ROUNDING),
    "int8": Feature("torchao int8", int8, dense, ROUNDING),
    "nf4": Feature("bitsandbytes nf4", nf4, dense, ROUNDING, note=NF4_NOTE),
    "gguf": Feature("GGUF", from_gguf, dense, ROUNDING, changes=WIDER, both_orders=False),
}

# -- offloading ----------------------------------------------------------------------------------------------------


def group_offload(kind: str, disk: bool) -> Callable[[Any, Path], Any]:
    """diffusers' group offload. From disk, weights are not there outside of their groups' forward, even on a CPU."""

    def apply(model: Any, folder: Path) -> Any:
        groups = {"num_blocks_per_group": 1} if kind == "block_level" else {}
        path = {"offload_to_disk_path": str(folder)} if disk else {}
        model.enable_group_offload(onload_device=CPU, offload_device=CPU, offload_type=kind, **groups, **path)
        return model

    return apply


def model_offload(model: Any, _: Path) -> Any:
    """The hook of ``enable_model_cpu_offload``, which itself refuses to run without an accelerator."""
    return accelerate.cpu_offload_with_hook(model, execution_device=CPU)[0]


def sequential(model: Any, _: Path) -> Any:
    """The hooks of ``enable_sequential_cpu_offload``: weights on meta until their module runs."""
    return accelerate.cpu_offload(model, execution_device=CPU, offload_buffers=True)


def to_disk(model: Any, folder: Path) -> Any:
    """accelerate's offloading to disk."""
    return accelerate.disk_offload(model, str(folder), execution_device=CPU)


OFFLOADING = {
    "model_offload": Feature("`enable_model_cpu_offload`", model_offload),
    "sequential_offload": Feature("`enable_sequential_cpu_offload`", sequential),
    "disk_offload": Feature("accelerate's `disk_offload`", to_disk),
    "group_offload_block": Feature("group offload, by block", group_offload("block_level", disk=False)),
    "group_offload_leaf": Feature("group offload, by leaf", group_offload("leaf_level", disk=False)),
    "group_offload_block_disk": Feature("group offload, by block, to disk", group_offload("block_level", disk=True)),
    "group_offload_leaf_disk": Feature("group offload, by leaf, to disk", group_offload("leaf_level", disk=True)),
}
