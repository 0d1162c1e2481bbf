"""One file of weights as a `Source`: safetensors, torch or GGUF. Only its header is read until a tensor is used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from memkit.backbones.checkpoints.source import Source
from memkit.errors import InputError
from memkit.files.headers import TensorInfo, tensors_in
from memkit.files.tensors import list_names, read_torch
from memkit.files.weights_format import check_torch_checksums, weights_format

_TORCH_REMEDY = "give a checkpoint of an original Wan that holds tensors and plain values alone, or fetch it again"


def open_file(path: Path) -> Source:
    """Open one file. Raises `InputError` where it cannot be read; the message says what it is."""
    match weights_format(path):
        case "safetensors":
            return _open_safetensors(path)
        case "torch":
            return _open_torch(path)
        case "gguf":
            return _open_gguf(path)


def open_mapping(content: Mapping[Any, Any], where: str = "The state dict") -> Source:
    """A state dict in memory, or dictionaries that hold some."""
    tensors = _flattened(content, where)
    infos = {name: TensorInfo.of(tensor) for name, tensor in tensors.items()}
    return Source(where, "a state dict in memory", infos, tensors.__getitem__)


def verify(source: Source) -> None:
    """Compare torch files with their checksums; the other formats have none. Raises `InputError` where they differ."""
    if source.format == "torch":
        for path in source.files:
            check_torch_checksums(path)


# -- safetensors -------------------------------------------------------------------------------------------------------


def _open_safetensors(path: Path) -> Source:
    infos = tensors_in(path)
    opened: list[Any] = []

    def read(name: str) -> Tensor:
        try:
            if not opened:
                opened.append(safe_open(path, "pt"))
            return opened[0].get_tensor(name)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise InputError(
                f"{path} cannot be read at {name} ({error}); free some memory, or fetch the file again."
            ) from error

    return Source(str(path), "safetensors", infos, read, (path,))


# -- torch -------------------------------------------------------------------------------------------------------------


def _open_torch(path: Path) -> Source:
    content = read_torch(path, _TORCH_REMEDY, values="skipped")
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}, not a state dict; {_TORCH_REMEDY}.")
    infos = {name: TensorInfo.of(tensor) for name, tensor in _flattened(content, str(path)).items()}
    mapped: dict[str, Tensor] = {}

    def read(name: str) -> Tensor:
        if not mapped:
            again = read_torch(path, _TORCH_REMEDY, values="mapped")
            assert isinstance(again, Mapping)
            mapped.update(_flattened(again, str(path)))
        return mapped[name]

    return Source(str(path), "torch", infos, read, (path,))


def _flattened(content: Mapping[Any, Any], where: str) -> dict[str, Tensor]:
    """All tensors of nested dictionaries, their keys joined by dots; other values, such as a step, are left out."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in _leaves(content, ""):
        if tensor.layout is not torch.strided:
            raise InputError(f"{where} holds {name} as a sparse tensor; give it dense, as tensor.to_dense().")
        if tensor.is_quantized or tensor.is_complex():
            raise InputError(f"{where} holds {name} as {tensor.dtype}; give it in float32, bfloat16 or float16.")
        if name in tensors:
            raise InputError(f"{where} holds two tensors of the name {name}; give one of the dictionaries alone.")
        tensors[name] = tensor
    if not tensors:
        keys = list_names(map(str, content))
        raise InputError(f"{where} holds no tensors, only {keys or 'nothing'}; give a checkpoint with weights.")
    return tensors


def _leaves(content: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Tensor]]:
    for key, value in content.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value
        elif isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")


# -- GGUF --------------------------------------------------------------------------------------------------------------


def _open_gguf(path: Path) -> Source:
    """GGUF by the ``gguf`` package; tensors are read as in diffusers: plain, or as its ``GGUFParameter``."""
    try:
        import gguf
    except ImportError as error:
        raise InputError(f"{path} is a GGUF file; to load it, `pip install gguf`.") from error
    try:
        found = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
        infos = {
            name: TensorInfo(_gguf_dtype(tensor), tuple(int(n) for n in reversed(tensor.shape)), int(tensor.n_bytes))
            for name, tensor in found.items()
        }
        short = [name for name, info in infos.items() if found[name].data.nbytes != info.nbytes]
    except Exception as error:  # the reader has no type of its own for a damaged file
        why = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(f"{path} is a GGUF file that is cut short or damaged ({why}); fetch it again.") from error
    if short or not infos:
        what = list_names(short) or "it has no tensors"
        raise InputError(f"{path} is a GGUF file that is cut short: {what}; fetch it again.")

    def read(name: str) -> Tensor:
        from diffusers.quantizers.gguf.utils import SUPPORTED_GGUF_QUANT_TYPES, GGUFParameter

        tensor = found[name]
        kinds = gguf.GGMLQuantizationType
        values = torch.from_numpy(tensor.data.copy())
        if tensor.tensor_type in (kinds.F32, kinds.F16):
            return values
        if tensor.tensor_type not in SUPPORTED_GGUF_QUANT_TYPES:
            known = ", ".join(kind.name for kind in SUPPORTED_GGUF_QUANT_TYPES)
            raise InputError(f"{path} holds {name} as {infos[name].dtype}, which diffusers cannot read; use {known}.")
        return GGUFParameter(values, quant_type=tensor.tensor_type)

    return Source(str(path), "GGUF", infos, read, (path,))


def _gguf_dtype(tensor: Any) -> str:
    plain: dict[str, str] = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
    name: str = tensor.tensor_type.name
    return plain.get(name, name)
