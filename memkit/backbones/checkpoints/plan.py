"""`Plan`: how a checkpoint becomes a `WanTransformer3DModel`, decided from names and shapes before weights are read."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from torch import Tensor

from memkit.backbones.checkpoints.config import infer_config
from memkit.backbones.checkpoints.files import open_mapping
from memkit.backbones.checkpoints.folders import open_path
from memkit.backbones.checkpoints.names import WeightSet, choose, weight_sets
from memkit.backbones.checkpoints.recognise import (
    Kind,
    diffusers_layout,
    family_of,
    is_lora,
    other_kind,
    quantised_without_scales,
)
from memkit.backbones.checkpoints.source import Source
from memkit.backbones.model_configs import check_arguments, check_model_numbers
from memkit.checks import shown
from memkit.errors import InputError, MemkitError
from memkit.files.headers import TensorInfo
from memkit.files.models import at_most
from memkit.files.tensors import list_names

_LATER_NAMES: dict[str, str] = {"img_emb.emb_pos": "condition_embedder.image_embedder.pos_embed"}
"""Parameters that diffusers' conversion leaves as they are: that of first-last-frame-to-video."""


@dataclass(frozen=True)
class Plan:
    """A set of weights, and the model that it belongs to."""

    source: Source
    chosen: WeightSet
    settings: dict[str, Any]
    """Keyword arguments of `WanTransformer3DModel`."""
    names: dict[str, str]
    """The full name in the source of each parameter of the model."""
    model: WanTransformer3DModel
    """On the meta device, without weights."""


def open_source(source: str | Path | Mapping[str, Any]) -> Source:
    """A state dict, a file or a folder, opened. Raises `InputError` where it cannot be read."""
    if isinstance(source, Mapping):
        return open_mapping(source)
    if not isinstance(source, str | Path) or not str(source):
        raise InputError(f"The weights are {shown(source)}; give a file, a folder or a state dict.")
    return open_path(Path(source))


def plan(
    source: Source,
    config: Mapping[str, Any] | None = None,
    torch_dtype: torch.dtype | None = None,
    weights: str | None = None,
) -> Plan:
    """Choose the weights, and check that they are those of a Wan.

    Raises:
        InputError: the checkpoint holds something else, several sets of weights among which nothing chooses, or
            tensors that are missing, left over or of another shape; the message names them.
    """
    sets, rest = weight_sets(source.tensors)
    if not sets:
        raise refusal(source, other_kind(rest))
    chosen = choose(sets, weights, source.where)
    tensors = tensors_of(source, chosen)
    if (kind := refused_kind(tensors, torch_dtype is not None)) is not None:
        raise refusal(source, kind)
    if weights is None:
        _say_what_is_left(source, sets, chosen, rest)
    if config is not None and not (isinstance(config, Mapping) and all(isinstance(name, str) for name in config)):
        raise InputError(f"config is {shown(config)}; give keyword arguments of WanTransformer3DModel by their names.")
    settings = {**infer_config(tensors, source.where), **(config or {})}
    check_arguments(f"The configuration of {source.where}", settings, WanTransformer3DModel)
    check_model_numbers(f"The configuration of {source.where}", settings)
    _check_blocks(source, tensors)
    model = _on_meta(settings, len(tensors))
    converted: dict[str, str] = convert_wan_transformer_to_diffusers(dict(chosen.names))
    names: dict[str, str] = {_LATER_NAMES.get(name, name): full for name, full in converted.items()}
    _check_fit(source, names, model, settings)
    return Plan(source, chosen, settings, names, model)


def tensors_of(source: Source, chosen: WeightSet) -> dict[str, TensorInfo]:
    """The descriptions of the tensors of a set, by their names in the model."""
    return {name: source.tensors[full] for name, full in chosen.names.items()}


def refused_kind(tensors: Mapping[str, TensorInfo], torch_dtype_given: bool) -> Kind | None:
    """What weights with names of Wan are, if they cannot be loaded."""
    return family_of(tensors) or diffusers_layout(tensors) or quantised_without_scales(tensors, torch_dtype_given)


def refusal(source: Source, kind: Kind) -> InputError:
    """The error for what cannot be loaded."""
    return InputError(f"{source.where} is {kind.what}; {kind.remedy}.")


def _say_what_is_left(source: Source, sets: list[WeightSet], chosen: WeightSet, rest: list[str]) -> None:
    """Warn where other weights of the same kind, or a LoRA, are in the checkpoint too."""
    differing = [other.label for other in sets if other is not chosen and _differ(source, chosen, other)]
    if differing:
        warnings.warn(
            f"{source.where} holds several sets of weights that differ; loading {chosen.label!r}. Pass weights= to "
            f"choose among {', '.join(repr(label) for label in (chosen.label, *differing))}.",
            stacklevel=5,
        )
    if is_lora(rest):
        warnings.warn(
            f"{source.where} holds a LoRA beside the weights, which is not loaded; pass lora= to load it.", stacklevel=5
        )


def _differ(source: Source, one: WeightSet, other: WeightSet) -> bool:
    """Whether two sets of weights differ, in names, dtypes, shapes or values."""
    if one.names.keys() != other.names.keys():
        return True
    pairs = [(full, other.names[name]) for name, full in one.names.items()]
    return any(source.tensors[a] != source.tensors[b] for a, b in pairs) or any(
        not torch.equal(_bits(source.read(a)), _bits(source.read(b))) for a, b in pairs
    )


def _bits(tensor: Tensor) -> Tensor:
    """The tensor as bytes, so that NaN equals itself and every dtype can be compared."""
    return tensor.detach().contiguous().flatten().view(torch.uint8)


def _check_blocks(source: Source, names: Iterable[str]) -> None:
    """All blocks up to the last one must be there: a damaged number could ask for a model of any size."""
    numbers = {int(found[1]) for name in names if (found := re.match(r"blocks\.(\d{1,9})\.", name))}
    if len(numbers) <= max(numbers):
        missing = islice((str(n) for n in count() if n not in numbers), 4)
        raise InputError(
            f"{source.where} has blocks up to {max(numbers)}, but lacks blocks {', '.join(missing)}…; give the whole "
            "checkpoint, for a sharded one its folder."
        )


def _on_meta(settings: Mapping[str, Any], tensors: int) -> WanTransformer3DModel:
    try:
        with torch.device("meta"), at_most(4 * tensors + 1000, f"The config {dict(settings)}"):
            return WanTransformer3DModel(**settings)
    except MemkitError:
        raise
    except Exception as error:  # of many types, for values that it was not written for
        raise InputError(f"diffusers' WanTransformer3DModel does not take {dict(settings)}: {error}.") from error


def _check_fit(source: Source, names: Mapping[str, str], model: WanTransformer3DModel, settings: dict) -> None:
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    found = {name: source.tensors[full].shape for name, full in names.items()}
    wrong = [
        f"{name} {list(found[name])} instead of {list(expected[name])}"
        for name in sorted(expected.keys() & found.keys())
        if expected[name] != found[name]
    ]
    problems = {
        "missing": sorted(expected.keys() - found.keys()),
        "left over": sorted(found.keys() - expected.keys()),
        "of another shape": wrong,
    }
    if any(problems.values()):
        what = "; ".join(f"{problem}: {list_names(names)}" for problem, names in problems.items() if names)
        raise InputError(f"{source.where} does not fit {settings}: {what}; pass a config= that fits.")
