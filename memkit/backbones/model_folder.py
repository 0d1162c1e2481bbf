"""Wan models in diffusers' folder format, loaded by diffusers and transformers, and checked: a damaged part is named.

diffusers and transformers fill missing weights with random values and only warn, take any configuration that can be
built, and raise errors of many types about the rest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKLWan, ModelMixin, SchedulerMixin, WanPipeline, WanTransformer3DModel

from memkit.backbones.model_configs import (
    SCHEDULER_FILE,
    check_latent_statistics,
    check_model_numbers,
    check_scheduler,
    check_types,
    read_part_config,
)
from memkit.backbones.presets import VideoFormat
from memkit.backbones.sized_pipeline import WanPipeline as SizedWanPipeline
from memkit.checks import shown
from memkit.errors import FileError, InputError
from memkit.files.json_files import read_json
from memkit.files.models import RESTORE, check_floating, check_loaded, check_size, loading, weights_in
from memkit.files.values import in_range
from memkit.hub import shipped_folder

INDEX_FILE = "model_index.json"
CONFIG_FILE = "config.json"
DIFFUSERS_STEM = "diffusion_pytorch_model"

Dtype = torch.dtype | None


def find_pipeline(name: str | Path, local_files_only: bool = False) -> Path:
    """The folder of a pipeline: ``name`` itself; where there is none, the weights that memkit ships under this name, or
    what is fetched from the hub under this id."""
    if not isinstance(name, str | Path) or name == "":
        raise InputError(f"The model is {shown(name)}; give a diffusers folder or a hub id.")
    if Path(name).is_dir():
        return Path(name)
    if (own := shipped_folder(name)) is not None:
        return own
    with loading(repr(str(name)), "there is no such folder here: give a diffusers folder, or the id of one on the hub"):
        return Path(WanPipeline.download(str(name), local_files_only=local_files_only))


def load_pipeline(folder: Path, dtype: Dtype, video_format: VideoFormat | None = None, **parts: Any) -> WanPipeline:
    """The Wan pipeline of a folder, by default in fp32; ``parts`` that are given are not loaded.

    It is diffusers' own; with a ``video_format``, this is its default size, see `memkit.backbones.sized_pipeline`.

    Raises `FileError`, which names the file, where a part is missing or damaged or belongs to another kind of model.
    """
    index = read_json(folder / INDEX_FILE, RESTORE)
    experts = [name for name in ("transformer", "transformer_2") if name not in parts and _has(index, name)]
    if "transformer" not in parts and "transformer" not in experts:
        raise FileError(f"{folder / INDEX_FILE} has no transformer, as that of a Wan pipeline has; {RESTORE}.")
    for name, kind in (("transformer", WanTransformer3DModel), ("vae", AutoencoderKLWan)):
        _kind_of(folder, index, name, kind)
    loaded = {"scheduler": _load_scheduler(folder, index), **parts}  # the small parts first: their errors come at once
    if _has(index, "text_encoder"):  # a pipeline may be saved without, to be given embeddings
        loaded["text_encoder"] = _load_text_encoder(folder, index, dtype or torch.float32)
    if _has(index, "tokenizer"):
        loaded["tokenizer"] = _load_tokenizer(folder, index, loaded.get("text_encoder"))
    if "vae" not in loaded:
        loaded["vae"] = load_vae(folder / "vae")
    for name in experts:
        loaded[name] = load_transformer(folder / name, dtype or torch.float32, eight_bits=dtype is not None)
    _check_together(folder, index, loaded)
    with loading(folder):
        if video_format is None:
            return WanPipeline.from_pretrained(folder, dtype=dtype or torch.float32, **loaded)
        pipe = SizedWanPipeline.from_pretrained(folder, dtype=dtype or torch.float32, **loaded)
    pipe.video_format = video_format
    return pipe


def load_transformer(folder: Path, dtype: Dtype, eight_bits: bool = False) -> WanTransformer3DModel:
    """The transformer of a folder with its config.json; weights in fp8, without scales, only if ``eight_bits``.

    Raises `FileError` where it is missing or damaged.
    """
    return _load_model(WanTransformer3DModel, folder, dtype, eight_bits)


def load_vae(folder: Path) -> AutoencoderKLWan:
    """The VAE of a folder with its config.json, in fp32. Raises `FileError` where it is missing or damaged."""
    return _load_model(AutoencoderKLWan, folder, None)


def _load_model(kind: Any, folder: Path, dtype: Dtype, eight_bits: bool = False) -> Any:
    file = folder / CONFIG_FILE
    config = read_part_config(file, kind)
    check_model_numbers(file, config)
    if kind.__name__ == AutoencoderKLWan.__name__:
        check_latent_statistics(file, config)
    tensors = weights_in(folder, DIFFUSERS_STEM)
    if "quantization_config" not in config:
        check_floating(tensors, folder, eight_bits)
    check_size(lambda: kind.from_config(config), tensors, file)
    with loading(folder):
        model, info = kind.from_pretrained(str(folder), dtype=dtype, output_loading_info=True)
    check_loaded(model, info, folder)
    return model


def _load_text_encoder(folder: Path, index: dict[str, Any], dtype: torch.dtype) -> Any:
    kind, folder = _kind_of(folder, index, "text_encoder", transformers.PreTrainedModel), folder / "text_encoder"
    file = folder / CONFIG_FILE
    written = read_json(file, RESTORE)
    if (found := written.get("model_type")) != kind.config_class.model_type:
        raise FileError(f"{file} is of a model of type {shown(found)}, not {kind.config_class.model_type}; {RESTORE}.")
    check_types(file, written, kind.config_class().to_dict(), {}, kind)
    check_model_numbers(file, {name: value for name, value in written.items() if not name.endswith("_token_id")})
    if written.get("is_decoder"):
        raise FileError(f"{file} says that it is a decoder, which sees only the words before; {RESTORE}.")
    tensors = weights_in(folder, "model")
    if "quantization_config" not in written:
        check_floating(tensors, folder)
    with loading(file):
        config = kind.config_class.from_pretrained(folder)
    check_size(lambda: kind(config), tensors, file)
    with loading(folder):
        model, info = kind.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, ignore_mismatched_sizes=True, output_loading_info=True
        )  # sizes that differ are in info, by name
    check_loaded(model, info, folder)
    return model.eval()


def _load_tokenizer(folder: Path, index: dict[str, Any], text_encoder: Any) -> Any:
    kind, folder = _kind_of(folder, index, "tokenizer", transformers.PreTrainedTokenizerBase), folder / "tokenizer"
    read_json(folder / "tokenizer_config.json", RESTORE)
    with loading(folder):
        tokenizer = kind.from_pretrained(folder)
        ids = tokenizer(["a red ball", "a"], padding="max_length", max_length=16, truncation=True)["input_ids"]
    rows = len(tokenizer) if text_encoder is None else text_encoder.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows or any(len(each) != 16 or max(each) >= rows for each in ids):
        raise FileError(
            f"{folder} is a tokenizer of {len(tokenizer):,} tokens, and the text encoder beside it knows {rows:,}; "
            f"{RESTORE}."
        )
    return tokenizer


def _load_scheduler(folder: Path, index: dict[str, Any]) -> Any:
    kind, file = _kind_of(folder, index, "scheduler", SchedulerMixin), folder / "scheduler" / SCHEDULER_FILE
    config = read_part_config(file, kind)
    check_model_numbers(file, {name: config[name] for name in ("num_train_timesteps",) if name in config})
    with loading(file):
        check_scheduler(file, config, kind.from_pretrained(folder / "scheduler"))
        return kind.from_pretrained(folder / "scheduler")


def _check_together(folder: Path, index: dict[str, Any], parts: dict[str, Any]) -> None:
    """Parts that each load must be those of one model."""
    file, model = folder / INDEX_FILE, parts.get("transformer")
    ratio, per_token = index.get("boundary_ratio"), index.get("expand_timesteps", False)
    if (parts.get("transformer_2") is not None or ratio is not None) and not in_range(ratio, above=0, most=1):
        raise FileError(
            f"{file} has boundary_ratio = {shown(ratio)}; with two experts it is between 0 and 1: {RESTORE}."
        )
    if not isinstance(per_token, bool):
        raise FileError(f"{file} has expand_timesteps = {shown(per_token)}; it is true or false: {RESTORE}.")
    if model is None:
        return
    text, channels = parts.get("text_encoder"), model.config.out_channels or model.config.in_channels
    sizes = {
        "latent channels": (channels, "vae", parts["vae"].config.z_dim),
        "text features": (model.config.text_dim, "text_encoder", None if text is None else text.config.hidden_size),
    }
    for what, (wanted, name, found) in sizes.items():
        if found not in (None, wanted):
            raise FileError(f"The transformer in {folder} is for {wanted} {what}, its {name} gives {found}; {RESTORE}.")


def _has(index: dict[str, Any], name: str) -> bool:
    return index.get(name) not in (None, [None, None])


def _kind_of(folder: Path, index: dict[str, Any], name: str, base: type) -> Any:
    """The class of a part, which must be ``base`` or, of the classes that several models share, derive from it."""
    file, entry = folder / INDEX_FILE, index.get(name)
    if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(each, str) for each in entry)):
        raise FileError(f"{file} names no class of the {name}, but {shown(entry)}; {RESTORE}.")
    library = {"diffusers": diffusers, "transformers": transformers}.get(entry[0])
    kind = getattr(library, entry[1], None) if entry[1].isidentifier() else None
    exact = issubclass(base, ModelMixin)
    if not isinstance(kind, type) or not (kind is base if exact else issubclass(kind, base)):
        what = f"a {base.__name__}" if exact else f"a subclass of {base.__name__}"
        raise InputError(
            f"{file} is of a {shown(index.get('_class_name'))} whose {name} is {shown(entry[1])}, where a Wan has "
            f"{what}; load another kind of model with its pipeline in diffusers, and attach to its transformer."
        )
    return kind
