"""The configurations in a diffusers folder: read with typed errors, values of the types and in the ranges of a Wan.

diffusers takes what it finds: a flow shift of −1 or 10¹² gives noise, and an unknown key a warning.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memkit.checks import shown
from memkit.errors import FileError
from memkit.files.json_files import read_json
from memkit.files.models import RESTORE
from memkit.files.values import LARGEST_SIZE, fits, hints_of, in_range, is_count

SCHEDULER_FILE = "scheduler_config.json"


def read_part_config(file: Path, kind: type) -> dict[str, Any]:
    """The configuration of a part of class ``kind`` (a model or a scheduler of diffusers), checked.

    Raises `FileError` where it is missing, damaged, of another class, or a value has another type than the class takes
    or is out of range.
    """
    config = read_json(file, RESTORE)
    if (found := config.get("_class_name", kind.__name__)) != kind.__name__:
        raise FileError(f"{file} is of a {shown(found)}, not a {kind.__name__}; {RESTORE}.")
    check_arguments(file, config, kind)
    return config


def check_arguments(file: Path | str, config: Mapping[str, Any], kind: type) -> None:
    """`check_types` by the signature of a class of diffusers."""
    defaults = {name: each.default for name, each in inspect.signature(kind.__init__).parameters.items()}
    check_types(file, config, defaults, hints_of(kind.__init__), kind)


def check_types(
    file: Path | str, config: Mapping[str, Any], defaults: dict[str, Any], hints: dict[str, Any], kind: type
) -> None:
    """Raise `FileError` where a value is not of the type of its default in ``kind``, nor of its hint."""
    for name, value in config.items():
        if name in defaults and not _suits(value, defaults[name], hints.get(name, Any)):
            raise FileError(f"{file} has {name} = {shown(value)}, which a {kind.__name__} does not take; {RESTORE}.")


def check_model_numbers(file: Path | str, config: Mapping[str, Any]) -> None:
    """Sizes are 1 or more, and numbers that are added or divided by are small and positive."""
    for name, value in config.items():
        sizes = value if isinstance(value, list | tuple) else [value]
        if any(type(size) is int and not is_count(size, _MOST.get(name, LARGEST_SIZE)) for size in sizes):
            _refuse(file, name, value, "whole numbers of 1 or more, as large as those of a model")
        if name in ("eps", "layer_norm_epsilon") and not in_range(value, above=0, most=0.01):
            _refuse(file, name, value, "a small positive number, such as 1e-6")
        if name.endswith(("dropout", "dropout_rate")) and not in_range(value, above=-1e-9, most=1):
            _refuse(file, name, value, "0 to 1")


def check_latent_statistics(file: Path, config: dict[str, Any]) -> None:
    """What latents are normalised by, and the strides, must be those of the model's channels and levels."""
    if "latents_mean" not in config or "latents_std" not in config:
        raise FileError(f"{file} lacks latents_mean or latents_std, by which latents are normalised; {RESTORE}.")
    mean, std, channels = config["latents_mean"], config["latents_std"], config.get("z_dim", 16)
    if len(mean) != channels or not all(in_range(each, -1e4, 1e4) for each in mean):
        _refuse(file, "latents_mean", mean, f"{channels} numbers, one per latent channel")
    if len(std) != channels or not all(in_range(each, 1e-4, 1e4) for each in std):
        _refuse(file, "latents_std", std, f"{channels} positive numbers, one per latent channel")
    levels = len(config.get("dim_mult", (1, 2, 4, 4))) - 1
    strides = {
        "scale_factor_temporal": 2 ** sum(config.get("temperal_downsample", (False, True, True))),
        "scale_factor_spatial": 2**levels * (config.get("patch_size") or 1),
    }
    for (name, wanted), default in zip(strides.items(), (4, 8), strict=True):
        if (found := config.get(name, default)) != wanted:
            _refuse(file, name, found, f"{wanted}, which is what the levels of this VAE come to")


def check_scheduler(file: Path, config: dict[str, Any], scheduler: Any) -> None:
    """A scheduler must do flow matching: noise levels fall from at most 1 to 0."""
    name = next((name for name in ("flow_shift", "shift") if name in config), None)
    if name is None or not in_range(config[name], above=0, most=1000):
        _refuse(file, name or "flow_shift", config.get(name or ""), "the flow shift, a number above 0 such as 3.0")
    if config.get("prediction_type", "flow_prediction") != "flow_prediction":
        _refuse(file, "prediction_type", config["prediction_type"], "flow_prediction, which a Wan gives")
    scheduler.set_timesteps(4)
    sigmas, times = scheduler.sigmas.tolist(), scheduler.timesteps.tolist()
    falling = all(a > b for a, b in zip(sigmas, sigmas[1:], strict=False))
    if not falling or not 0 < sigmas[0] <= 1 + 1e-6 or sigmas[-1] < 0 or not all(math.isfinite(t) for t in times):
        raise FileError(
            f"{file} gives the noise levels {shown([round(s, 3) for s in sigmas])}, which do not fall from 1 or less "
            f"to 0: it is of no flow matching, or damaged; {RESTORE}."
        )


_MOST = {"vocab_size": 1 << 22, "rope_max_seq_len": 1 << 20, "num_train_timesteps": 1 << 16}


def _suits(value: Any, default: Any, hint: Any) -> bool:
    """Whether a value may stand for a default. diffusers' annotations are not always right, its defaults are."""
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(default, int | float):
        return fits(value, type(default)) or (value is None and fits(value, hint))
    if isinstance(default, str):
        return isinstance(value, str) or (value is None and fits(value, hint))
    if isinstance(default, list | tuple):
        item = type(default[0]) if default else float
        return isinstance(value, list | tuple) and all(fits(each, item) for each in value)
    return value is None or fits(value, hint) or in_range(value)


def _refuse(file: Path | str, name: str, value: object, wanted: str) -> None:
    raise FileError(f"{file} has {name} = {shown(value)}; it must be {wanted}: {RESTORE}.")
