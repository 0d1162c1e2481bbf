"""Tensors on disk: safetensors with a JSON header, and torch files read without running what they may hold."""

from __future__ import annotations

import json
import os
import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from memkit.errors import FileError, InputError
from memkit.files.atomic import atomic_write
from memkit.files.checksums import set_checksum, verify_checksum, with_checksum, without_checksum
from memkit.files.json_files import parse_json
from memkit.files.weights_format import check_torch_checksums, weights_format

_WEIGHTS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""The dtypes that weights may have."""


class FileKind(NamedTuple):
    """A format of memkit's own, by what its files' headers state."""

    what: str
    """What errors call such a file, as in "There is no saved cache at …"."""
    format: str
    version: int

    def header(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """``content`` with the format and the version before it."""
        return {"format": self.format, "version": self.version, **content}

    def check(self, header: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
        """Raises `InputError` where a header states another format or version."""
        if (header["format"], header["version"]) != (self.format, self.version):
            raise InputError(f"{path} is no {self.format} of version {self.version}; save it with this memkit.")

    @contextmanager
    def reading(self, path: str | os.PathLike[str]) -> Iterator[None]:
        """Inside, what a missing or damaged file raises becomes an `InputError` that names ``path``."""
        try:
            yield
        except InputError:
            raise
        except FileNotFoundError as error:
            raise FileError(f"There is no {self.what} at {path}; check the path.") from error
        except Exception as error:  # what the content of a damaged file leads to has no end of types
            raise FileError(f"{path} is no {self.what}, or is damaged ({error}); save it again.") from error


def save_tensors(
    path: str | os.PathLike[str], kind: FileKind, key: str, content: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Write one safetensors file with ``content`` as JSON under ``key`` of its metadata; whole or not at all.

    Raises `FileError` where it cannot be written.
    """
    write_safetensors(path, tensors, key, kind.header(content))


def write_safetensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], key: str, content: Mapping[str, Any]
) -> None:
    """Write a safetensors file whole or not at all, with ``content`` and a checksum as JSON under ``key``.

    There is one key of metadata: safetensors writes several in random order, and equal content should give equal files.

    Raises `FileError` where it cannot be written.
    """
    metadata = {key: json.dumps(with_checksum(dict(content)))}
    data = save({name: x.detach().cpu().contiguous() for name, x in tensors.items()}, metadata)
    with atomic_write(path) as partial:
        partial.write_bytes(data)  # save_file writes to a name of its own, which would be left behind by a kill
        set_checksum(partial)


@contextmanager
def open_tensors(
    path: str | os.PathLike[str], kind: FileKind, key: str, device: torch.device | str = "cpu"
) -> Iterator[tuple[dict[str, Any], safe_open]]:
    """The header that `save_tensors` wrote, and the open file, whose ``get_tensor`` reads one by its name.

    The whole file is compared with its checksum first.

    Raises `InputError` where there is no such file, or it is of another format or version, or damaged, which may show
    as late as what the block makes of it.
    """
    with kind.reading(path):
        verified = os.path.exists(path) and verify_checksum(path)
        with safe_open(path, "pt", device=str(device)) as file:
            header = without_checksum(parse_json(file.metadata()[key]), verified, path)
            kind.check(header, path)
            yield header, file


def read_torch(
    path: str | os.PathLike[str], remedy: str, values: Literal["read", "mapped", "skipped"] = "read"
) -> object:
    """What a file of ``torch.save`` holds, on the CPU: tensors and plain values only, so that nothing in it is run.

    Values are read and compared with the checksums; or "mapped", to be read when they are used; or "skipped", so that
    tensors have their shape and dtype alone. Files in torch's format from before 1.6 are read in any case.

    Raises `InputError`, which ends in ``remedy``, where it cannot be read or asks for anything else.
    """
    with _remedy(remedy):
        if (found := weights_format(path)) != "torch":
            raise InputError(f"{path} cannot be read: it is a {found} file, not one of torch.")
        if values == "read":
            check_torch_checksums(path)
        choice = values if zipfile.is_zipfile(path) else "read"
        try:
            if choice == "mapped" and not os.fspath(path).endswith(".safetensors"):  # torch would go by the name
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            with torch.serialization.skip_data() if choice == "skipped" else nullcontext(), open(path, "rb") as file:
                return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:  # not torch's own text: it advises to let the file run code
            asked = re.search(r"GLOBAL (\S+)", str(error))
            if asked is None:
                raise InputError(f"{path} cannot be read: it is damaged, or no file of torch.save.") from None
            raise InputError(
                f"{path} cannot be read: it asks for {asked[1]}, which could run code when it is read. That was "
                "refused, and nothing was executed."
            ) from None
        except Exception as error:  # torch has a dozen types for a damaged file, and advice of its own
            if "allocate memory" in str(error):
                raise InputError(f"{path} cannot be read: it is larger than the memory of this machine.") from None
            raise InputError(f"{path} cannot be read, and may be damaged ({type(error).__name__}).") from None


def read_state_dict(path: str | os.PathLike[str], remedy: str) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file, or of a torch file that holds a flat dictionary of tensors.

    Raises `InputError`, which ends in ``remedy``, where the file cannot be read or holds anything else.
    """
    with _remedy(remedy):
        if (found := weights_format(path)) == "safetensors":
            try:
                return load_file(path)
            except (OSError, SafetensorError) as error:
                raise InputError(f"{path} cannot be read: it is damaged or cut short ({error}).") from error
        if found != "torch":
            raise InputError(f"{path} cannot be read: it is a {found} file.")
    content = read_torch(path, remedy)
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{path} holds no state dict; {remedy}.")
    return dict(content)


@contextmanager
def _remedy(remedy: str) -> Iterator[None]:
    """Inside, the message of an `InputError` gets ``remedy`` at its end."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{str(error).removesuffix('.')}; {remedy}.") from error.__cause__


def load_exactly(module: nn.Module, tensors: Mapping[str, Tensor], source: str | os.PathLike[str]) -> None:
    """Gives a module its tensors, with the dtypes they come in; raises ``InputError`` unless they are those it needs.

    That is: names and shapes agree, weights are of a floating-point dtype, and all values are finite, except in buffers
    that hold infinities from the beginning. Of tensors on the meta device, names and shapes alone count. ``source`` is
    what the error calls the origin of the tensors.
    """
    check_shapes(module, tensors, source)
    masks = {name for name, buffer in module.named_buffers() if not buffer.is_meta and bool(buffer.isinf().any())}
    given = ((name, tensor) for name, tensor in tensors.items() if not tensor.is_meta and name not in masks)
    check_values(given, source)
    module.load_state_dict(tensors, assign=True)


def check_shapes(module: nn.Module, tensors: Mapping[str, Tensor], source: str | os.PathLike[str]) -> None:
    """Raises ``InputError`` unless names, shapes and kinds of dtype agree; the module may be on the meta device."""
    expected = module.state_dict()
    problems = []
    if missing := sorted(expected.keys() - tensors.keys()):
        problems.append(f"lacks {list_names(missing)}")
    if unexpected := sorted(tensors.keys() - expected.keys()):
        problems.append(f"has unknown {list_names(unexpected)}")
    for name in sorted(expected.keys() & tensors.keys()):
        given, wanted = tensors[name], expected[name]
        if given.shape != wanted.shape:
            problems.append(f"has {name} of shape {tuple(given.shape)} instead of {tuple(wanted.shape)}")
        elif not given.is_meta and given.dtype not in (_WEIGHTS if wanted.dtype in _WEIGHTS else (wanted.dtype,)):
            problems.append(f"has {name} of {given.dtype} instead of {wanted.dtype}")
    if problems:
        remedy = f"give tensors that fit this configuration of {type(module).__name__}"
        raise InputError(f"{source} {'; '.join(problems[:5])}: {remedy}.")


def check_values(tensors: Iterable[tuple[str, Tensor]], source: str | os.PathLike[str]) -> None:
    """Raises ``InputError`` where a tensor holds NaN or an infinity, or has no values, on the meta device."""
    for name, tensor in tensors:
        if tensor.is_meta:
            raise InputError(f"{name} of {source} is on the meta device, without values; give real weights.")
        if not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        wide = tensor.detach().float() if tensor.itemsize == 1 else tensor.detach()
        if not wide.is_complex() and wide.sum(dtype=torch.float32).isfinite():  # one pass without a mask
            continue
        if bad := int((~wide.isfinite()).sum()):
            raise InputError(
                f"{source} holds {bad} NaN or infinite values of {tensor.numel()} in {name}; it is damaged, or its "
                "training diverged: restore or fetch it again, or give an earlier one."
            )


def list_names(names: Iterable[str]) -> str:
    """The first eight names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
