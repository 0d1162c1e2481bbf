"""A folder of weights as a `Source`: which of its files belong together."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from memkit.backbones.checkpoints.files import open_file
from memkit.backbones.checkpoints.source import Source
from memkit.errors import InputError
from memkit.files.tensors import list_names

_SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)\.\w+")
_OTHER_WEIGHTS = ("*.gguf", "*.pt", "*.pth", "*.ckpt", "*.bin")


def open_path(path: Path) -> Source:
    """Open a file, the index of a sharded checkpoint, or a folder.

    Raises:
        InputError: there is nothing there, a shard is missing, the folder holds several checkpoints, or a file cannot
            be read; the message names the file.
    """
    if path.is_dir():
        return _open_folder(path)
    if path.name.endswith(".index.json"):
        return _open_index(path)
    if not path.exists():
        raise InputError(f"There is no file {path} of weights; check the path.")
    return open_file(path)


def _open_folder(folder: Path) -> Source:
    _refuse_experts(folder, [p.name for p in folder.iterdir() if p.is_dir()])
    if (folder / "model_index.json").is_file():
        raise InputError(f"{folder} is a pipeline in diffusers' format; load it with WanBackbone.from_pretrained.")
    if any(folder.glob("*.distcp")):
        raise InputError(
            f"{folder} is a checkpoint of torch.distributed.checkpoint, in parts per process; join them with "
            "`python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE`, and give the file."
        )
    indices = sorted(folder.glob("*.safetensors.index.json")) or sorted(folder.glob("*.index.json"))
    if len(indices) > 1:
        _refuse_experts(folder, [p.name for p in indices])
        raise InputError(f"{folder} holds several sharded checkpoints; give the index of one: {_names(indices)}.")
    if indices:
        return _open_index(indices[0])
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        files = sorted(file for pattern in _OTHER_WEIGHTS for file in folder.glob(pattern))
        _refuse_experts(folder, [p.name for p in files])
        if len(files) > 1:
            raise InputError(f"{folder} holds several files of weights; give one of them: {_names(files)}.")
    if not files:
        raise InputError(f"{folder} holds no .safetensors file, nor other weights; give the folder that holds them.")
    if len(files) == 1 and not _SHARD.fullmatch(files[0].name):
        return open_file(files[0])
    _refuse_experts(folder, [p.name for p in files])
    _check_numbers(folder, files)
    return _join(folder, files)


def _open_index(index: Path) -> Source:
    """The shards that an index names; other files beside them are not read."""
    again = "fetch the index again"
    try:
        where = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(where.values()))
        names = set(where)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{index} is no index of a sharded checkpoint, or is damaged; {again}.") from error
    if not shards or not all(isinstance(name, str) and Path(name).name == name for name in shards):
        raise InputError(f"{index} names no shards, or some that do not lie beside it; {again}.")
    if missing := [name for name in shards if not (index.parent / name).is_file()]:
        raise InputError(
            f"{index.parent} lacks {list_names(missing)}, of the {len(shards)} shards that {index.name} names; "
            "fetch the missing files."
        )
    joined = _join(index.parent, [index.parent / name for name in shards])
    if names - joined.tensors.keys():
        lacking = list_names(sorted(names - joined.tensors.keys()))
        raise InputError(f"The shards of {index} lack {lacking}; fetch them again together with their index.")
    return joined


def _join(folder: Path, files: Sequence[Path]) -> Source:
    """Several files as one. Raises `InputError` where two hold the same tensor."""
    parts = [open_file(file) for file in files]
    owner: dict[str, Source] = {}
    for part in parts:
        if twice := sorted(part.tensors.keys() & owner.keys()):
            raise InputError(
                f"{folder} holds more than one checkpoint: {owner[twice[0]].files[0].name} and {part.files[0].name} "
                f"both have {twice[0]}; give one of the files, or the index of a sharded checkpoint."
            )
        owner.update(dict.fromkeys(part.tensors, part))

    def read(name: str) -> Tensor:
        return owner[name].read(name)

    tensors = {name: info for part in parts for name, info in part.tensors.items()}
    return Source(str(folder), parts[0].format, tensors, read, tuple(files))


def _check_numbers(folder: Path, files: Sequence[Path]) -> None:
    """Without an index, files numbered "…-00001-of-00002" must be one whole set."""
    sets: dict[tuple[str, int], set[int]] = {}
    for file in files:
        if found := _SHARD.fullmatch(file.name):
            sets.setdefault((found[1], int(found[3])), set()).add(int(found[2]))
    if not sets:
        return
    if len(sets) > 1 or sum(map(len, sets.values())) != len(files):
        raise InputError(
            f"{folder} has no index, and its files are of more than one checkpoint: {_names(files)}; give one file, or "
            "leave the shards of one checkpoint in the folder."
        )
    ((stem, total), numbers), *_ = sets.items()
    if missing := sorted(set(range(1, total + 1)) - numbers):
        raise InputError(
            f"{folder} lacks shards {', '.join(map(str, missing[:8]))} of {total} of {stem}; fetch the missing files."
        )


def _refuse_experts(folder: Path, names: Sequence[str]) -> None:
    """Both experts of an A14B are two models."""
    high, low = (
        sorted(name for name in names if re.search(rf"(?<![a-z]){level}(noise|[^a-z])", name, re.IGNORECASE))
        for level in ("high", "low")
    )
    if high and low:
        raise InputError(
            f"{folder} holds both experts of a Wan2.2 A14B, {high[0]} and {low[0]}, which are two models; load each by "
            "its own path, and give them to a WanPipeline as transformer (high noise) and transformer_2 (low noise)."
        )


def _names(files: Sequence[Path]) -> str:
    return list_names([file.name for file in files])
