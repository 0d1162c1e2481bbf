"""What files of weights hold, from their headers alone: names, dtypes and shapes of tensors."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from memkit.errors import FileError

_DTYPES: dict[str, str] = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
"""The names of safetensors; others are left as they are, in lower case."""

_AGAIN = "download the file again, for example with `hf download`"


class TensorInfo(NamedTuple):
    """One tensor, as the header of its file describes it."""

    dtype: str
    """As in torch, such as "bfloat16"; for GGUF the quantization type, such as "Q4_K"."""
    shape: tuple[int, ...]
    nbytes: int

    @property
    def numel(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @classmethod
    def of(cls, tensor: Tensor) -> TensorInfo:
        """The description of a tensor in memory."""
        return cls(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), tensor.nbytes)


def safetensors_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: its tensors by name, and ``__metadata__`` where there is some.

    Raises `FileError` where it is damaged, or the file is cut short.
    """
    try:
        with safe_open(path, "np"):  # checks the header and the length; for torch it would claim memory for the file
            pass
        with open(path, "rb") as file:
            return json.loads(file.read(int.from_bytes(file.read(8), "little")))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise FileError(f"{path} cannot be read: {_why_unreadable(path, error)}.") from None


def tensors_in(path: str | os.PathLike[str]) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file by name. Raises `FileError` where it is damaged or cut short."""
    infos = {}
    for name, info in safetensors_header(Path(path)).items():
        if name != "__metadata__":
            begin, end = info["data_offsets"]
            dtype = _DTYPES.get(info["dtype"]) or info["dtype"].lower()
            infos[name] = TensorInfo(dtype, tuple(info["shape"]), end - begin)
    return infos


def _why_unreadable(path: Path, error: Exception) -> str:
    """What is wrong with a safetensors file that was refused."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        end = 8 + length + max(info["data_offsets"][1] for name, info in header.items() if name != "__metadata__")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OSError, OverflowError, RecursionError):
        return f"it is a safetensors file with a damaged header; {_AGAIN}"
    if size < end:
        return f"it is a safetensors file that is cut short ({size:,} of {end:,} bytes); {_AGAIN}"
    return f"it is a damaged safetensors file ({error}); {_AGAIN}"
