"""Models that torch, diffusers and transformers build and load: bounded before, typed errors while, checked after."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from memkit.errors import FileError, MemkitError
from memkit.files.headers import TensorInfo, tensors_in
from memkit.files.json_files import read_json
from memkit.files.tensors import check_values, list_names
from memkit.files.weights_format import weights_format

RESTORE = "restore the folder from a copy, or fetch it again"
ALLOWANCE = 1 << 26  # values of tables that no file holds, such as those of rotary positions


@contextmanager
def loading(where: str | os.PathLike[str], remedy: str = RESTORE) -> Iterator[None]:
    """Inside, whatever a library raises becomes a `FileError` that names ``where`` and ends in ``remedy``.

    Errors of memkit come out as they are. Other libraries have no end of types for a damaged folder.
    """
    try:
        yield
    except MemkitError:
        raise
    except Exception as error:
        why = " ".join(str(error).split())[:300].removesuffix(".")
        raise FileError(f"{where} cannot be loaded ({type(error).__name__}: {why}); {remedy}.") from error


def on_meta(build: Callable[[], nn.Module], tensors: int, where: str | os.PathLike[str]) -> nn.Module | None:
    """The module that ``build`` creates, without memory for its values; None where it cannot be created so.

    Raises `FileError`, which names ``where``, as soon as the module has many more parameters than ``tensors``: a
    damaged number of layers would keep it busy for ever.
    """
    try:
        with torch.device("meta"), at_most(4 * tensors + 1000, where):
            return build()
    except MemkitError:
        raise
    except Exception:  # as where a constructor reads values
        return None


def check_size(
    build: Callable[[], nn.Module], tensors: Mapping[str, TensorInfo], where: str | os.PathLike[str]
) -> None:
    """Raise `FileError` where a configuration asks for a far larger model than its weights are, before it is built."""
    model = on_meta(build, len(tensors), where)
    if model is None:
        return
    asked = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    held = sum(info.numel for info in tensors.values())
    if asked > 2 * held + ALLOWANCE:
        raise FileError(f"{where} describes a model of {asked:,} values, and its weights have {held:,}; {RESTORE}.")


def weights_in(folder: Path, stem: str) -> dict[str, TensorInfo]:
    """The tensors in a model's folder by their names, from the headers of its safetensors files.

    Raises `FileError` where there are none, one is damaged or cut short, or a shard is missing.
    """
    index = folder / f"{stem}.safetensors.index.json"
    files = _shards(index) if index.exists() else [folder / f"{stem}.safetensors"]
    tensors: dict[str, TensorInfo] = {}
    for file in files:
        if not file.is_file():
            raise FileError(
                f"There is no {file}; {RESTORE}. Weights are read from safetensors alone: a folder with others is "
                "converted with its library's save_pretrained."
            )
        if (found := weights_format(file)) != "safetensors":
            raise FileError(f"{file} is a {found} file, not safetensors; {RESTORE}.")
        tensors |= tensors_in(file)
    return tensors


def check_floating(tensors: Mapping[str, TensorInfo], where: str | os.PathLike[str], eight_bits: bool = False) -> None:
    """Raise `FileError` unless all tensors have a floating-point dtype, one of 8 bits only if ``eight_bits``."""
    wanted = ("float64", "float32", "float16", "bfloat16")
    for name, info in tensors.items():
        if info.dtype not in wanted and not (eight_bits and info.dtype.startswith("float8")):
            raise FileError(
                f"{where} holds {name} as {info.dtype}, which weights are not; give them in float32, bfloat16 or "
                "float16, or state their quantization_config. Weights that were only cast to fp8 need a torch_dtype."
            )


def check_loaded(
    model: nn.Module,
    info: Mapping[str, Any],
    where: str | os.PathLike[str],
    ignored: Callable[[str], bool] = lambda name: False,
    others_allowed: bool = False,
) -> None:
    """Check what a library loaded: it fills missing weights with random values, and only warns.

    Args:
        info: what ``output_loading_info=True`` returned.
        ignored: whether a missing tensor does not matter.
        others_allowed: whether the file may hold further tensors, as of a head that is not used.

    Raises `FileError` where weights are missing, left over, of another shape, or not finite.
    """
    problems = {
        "lacks weights": sorted(name for name in info.get("missing_keys", ()) if not ignored(name)),
        "has unknown weights": [] if others_allowed else sorted(info.get("unexpected_keys", ())),
        "has weights of another shape than its config.json says:": sorted(
            each if isinstance(each, str) else each[0] for each in info.get("mismatched_keys", ())
        ),
        "could not be loaded:": sorted(map(str, info.get("error_msgs", ()))),
    }
    for what, names in problems.items():
        if names:
            raise FileError(f"{where} {what} {list_names(names)}; {RESTORE}.")
    check_values(_tensors(model), where)


def _tensors(model: nn.Module) -> Iterable[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _shards(index: Path) -> list[Path]:
    """The files that the index of a sharded model names."""
    where = read_json(index, RESTORE).get("weight_map")
    names = (
        set(where.values()) if isinstance(where, dict) and all(isinstance(n, str) for n in where.values()) else set()
    )
    if not names or any(Path(name).name != name for name in names):
        raise FileError(f"{index} names no shards, or some that do not lie beside it; {RESTORE}.")
    return [index.parent / name for name in sorted(set(names))]


@contextmanager
def at_most(count: int, where: str | os.PathLike[str]) -> Iterator[None]:
    """Inside, modules that this thread creates have at most so many parameters in all; else `FileError`."""
    thread, seen = threading.get_ident(), 0

    def register(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal seen
        if threading.get_ident() == thread and (seen := seen + 1) > count:
            raise FileError(f"{where} asks for more than {count} parameters, and its weights are far fewer; {RESTORE}.")

    handle = register_module_parameter_registration_hook(register)
    try:
        yield
    finally:
        handle.remove()
