"""What a checkpoint is, by the names and dtypes of its tensors, where it is not plain weights of an original Wan."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from memkit.files.headers import TensorInfo


class Kind(NamedTuple):
    """Something that `WanBackbone.from_original` does not load."""

    what: str
    """As in "FILE is …"."""
    remedy: str


class _Sign(NamedTuple):
    """A kind, and a pattern that one of its names matches from the beginning, after the prefix was taken off."""

    name: str
    kind: Kind


def _sign(pattern: str, what: str, remedy: str) -> _Sign:
    return _Sign(pattern, Kind(what, remedy))


_FAMILY = (
    _sign(
        r"vace_(blocks|patch_embedding)\.",
        "Wan VACE, which has blocks of its own for the control video",
        "load it with WanVACETransformer3DModel.from_single_file of diffusers",
    ),
    _sign(
        r"(face_adapter|motion_encoder|pose_patch_embedding)\.",
        "Wan-Animate, which has a motion encoder and a face adapter",
        "load it with WanAnimateTransformer3DModel.from_single_file of diffusers",
    ),
    _sign(
        r"fps_(embedding|projection)\.",
        "SkyReels-V2, whose model is conditioned on frames per second",
        "load it with SkyReelsV2Transformer3DModel.from_single_file of diffusers",
    ),
    _sign(
        r"(casual_audio_encoder|audio_injector|audio_proj|audio_model|cond_encoder|vocal_projector)\.",
        "a Wan that is driven by audio (S2V, MultiTalk or alike)",
        "give a text-to-video or image-to-video Wan; diffusers has no class for this one",
    ),
    _sign(
        r"(control_adapter|ref_conv)\.|.*\.(cam_encoder|projector|cam_injector_layer)",
        "a Wan with layers for controls (Fun-Control with a reference image, Fun-Camera, ReCamMaster or alike)",
        "give a Wan without them; diffusers' WanTransformer3DModel has no such layers",
    ),
)
"""Relatives of Wan, by parameters that only they have."""

_FORMATS = (
    _sign(
        r".*quantized_weight_values$",
        "quantised to NVFP4, as LongLive-2.0 is released for its own kernels",
        "give its checkpoint in bf16",
    ),
    _sign(
        r".*(\.base_layer\.)",
        "a model with LoRA layers of peft still in it",
        "merge them with peft's merge_and_unload, or save base and LoRA apart and pass lora=",
    ),
    _sign(
        r".*\.(scale_weight|scale_input|comfy_quant)$|scaled_fp8$",
        "quantised to fp8 with scales, as ComfyUI does, for which diffusers has no loader",
        "give the checkpoint in bf16 or fp16, or as GGUF",
    ),
    _sign(
        r".*\.(absmax|quant_map|nested_absmax|SCB|weight_format)$|.*\.quant_state\.",
        "quantised with bitsandbytes",
        "give the checkpoint in bf16, and quantise it with diffusers' BitsAndBytesConfig",
    ),
    _sign(
        r".*\.(_data|weight_scale|weight_scale_2|weight_zero_point|qweight|wscales|scales|qzeros)$|.*\._(scale|shift)$",
        "quantised, in the layout of another library",
        "give the checkpoint in bf16 and quantise it with diffusers, or give it as GGUF",
    ),
)
"""Wan weights that are stored in a form that cannot be read here."""

_OTHERS = (
    _sign(
        r".*(lora_(A|B|down|up|unet|te)|\.hada_w\d|\.lokr_w\d|\.diff_b?$)",
        "a LoRA alone, without the weights of the model",
        "give the model, and this file as lora=",
    ),
    _sign(
        r"(pipe\.)?(dit_mem\.)?(high|low)_pass_module\.",
        "an encoder of DiT-Mem",
        "load it with memkit.encoders.load_dit_mem",
    ),
    _sign(
        r".*\bcondition_embedder\.|.*blocks\.\d+\.attn1\.to_q\.",
        "a Wan in diffusers' own format",
        "load its folder, which has a config.json, with WanBackbone.from_pretrained",
    ),
    _sign(
        r"decoder\.(middle\.0\.residual|conv_in|mid_block)|(encoder\.conv1|conv1|conv2|post_quant_conv)\.weight",
        "a VAE, which turns videos into latents",
        "give the transformer; the VAE is loaded with AutoencoderKLWan",
    ),
    _sign(
        r"(encoder\.block\.\d|shared\.weight|token_embedding\.weight|blocks\.\d+\.attn\.q\.weight)",
        "a text encoder (UMT5)",
        "give the transformer; the text encoder belongs to the pipeline",
    ),
    _sign(
        r"(visual|textual|vision_model|text_model)\.|.*embeddings\.position_ids$",
        "a CLIP encoder, which Wan2.1 I2V reads its image with",
        "give the transformer; the image encoder belongs to the pipeline",
    ),
    _sign(
        r".*(double_blocks|single_blocks|transformer_blocks|joint_blocks|input_blocks)\.\d+\.",
        "a model of another family than Wan",
        "give a checkpoint of Wan, or load this one with its class in diffusers",
    ),
)
"""What else is found beside Wan weights."""


def family_of(names: Iterable[str]) -> Kind | None:
    """The relative of Wan whose parameters are among these, or the form they are in; None for plain Wan weights."""
    return _first(names, (*_FORMATS, *_FAMILY))


def diffusers_layout(names: Iterable[str]) -> Kind | None:
    """That these are diffusers' names, if they are."""
    kind = _first(names, _OTHERS)
    return kind if kind is not None and "diffusers" in kind.what else None


def other_kind(names: Iterable[str]) -> Kind:
    """What a checkpoint without a Wan in it is."""
    names = list(names)
    some = ", ".join(sorted(names)[:3])
    unknown = Kind(
        f"no checkpoint of an original Wan: there is no patch_embedding.weight among its names, {some}…",
        "give the file of the transformer; a diffusers folder is loaded with WanBackbone.from_pretrained",
    )
    return _first(names, (*_FORMATS[:2], *_OTHERS, *_FAMILY)) or unknown


def is_lora(names: Iterable[str]) -> bool:
    """Whether LoRA layers are among these names."""
    return any(re.match(_OTHERS[0].name, name) for name in names)


def quantised_without_scales(tensors: Mapping[str, TensorInfo], torch_dtype_given: bool) -> Kind | None:
    """Weights in int8 or fp8 whose scales are not in the file; fp8 alone is usable, if the caller says so."""
    kinds = {info.dtype for name, info in tensors.items() if name.endswith("weight")}
    if whole := sorted(dtype for dtype in kinds if re.match(r"u?int|bool", dtype)):
        return Kind(
            f"quantised to {whole[0]}, and the scales of its weights are not in it",
            "give the checkpoint in bf16 or fp16",
        )
    if (eight := sorted(dtype for dtype in kinds if dtype.startswith("float8"))) and not torch_dtype_given:
        return Kind(
            f"in {eight[0]}, and there are no scales in it: either its weights were cast, or the scales were lost",
            "if you know that they were only cast, pass torch_dtype=torch.bfloat16; otherwise give it in bf16",
        )
    return None


def _first(names: Iterable[str], signs: Iterable[_Sign]) -> Kind | None:
    names = list(names)
    return next((sign.kind for sign in signs if any(re.match(sign.name, name) for name in names)), None)
