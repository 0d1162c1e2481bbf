"""`Pretrained`: a module that is saved as `config.json` + `model.safetensors` and loaded back bit for bit.

A class joins by inheriting from ``Pretrained`` and ``nn.Module``, naming its config dataclass, and building itself from
one:

    class Encoder(Pretrained, nn.Module):
        config_class = EncoderConfig

        def __init__(self, config: EncoderConfig): ...  # sets self.config

The folder holds this module's parameters and buffers and nothing else: never a backbone, never a pickle.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from memkit.errors import InputError
from memkit.files import atomic_write

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CLASS_KEY = "_class_name"
_FETCHED = [CONFIG_FILE, WEIGHTS_FILE, "gate.safetensors"]

Part = TypeVar("Part", bound="Pretrained")  # beartype refuses typing.Self on methods it checks alone


class Pretrained:
    """Mixin of ``save_pretrained`` and ``from_pretrained`` for an ``nn.Module`` built from a frozen dataclass.

    Config fields are numbers, strings, booleans, None and (nested) tuples of these.
    """

    config_class: ClassVar[type[Any]]
    config: Any

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Writes both files into ``folder``, made if needed, and returns it; other files there are left alone.

        Each file appears whole or not at all. The weights carry a copy of the config, so that a save that was
        interrupted between the two files is noticed when loading.
        """
        assert isinstance(self, nn.Module)
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        content = {CLASS_KEY: type(self).__name__, **dataclasses.asdict(self.config)}
        text = json.dumps(content, indent=2)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self._tensors().items()}
        # One key of metadata: safetensors writes several in random order, and equal modules should give equal files.
        _write(folder / WEIGHTS_FILE, save(tensors, metadata={"config": json.dumps(content)}))
        _write(folder / CONFIG_FILE, text.encode() + b"\n")
        return folder

    @classmethod
    def from_pretrained(cls: type[Part], folder_or_id: str | os.PathLike[str], revision: str | None = None) -> Part:
        """The module saved in a folder or, where no such folder exists, under a Hugging Face Hub id; in eval mode.

        ``revision`` is a branch, tag or commit on the Hub. Weights keep the dtypes they were saved in, and the global
        random state is left as it was. Raises ``InputError`` that names the file and the item when the folder, a key of
        the config or a tensor is missing, unknown, damaged or of another class or shape.
        """
        return cls._load(find_folder(folder_or_id, revision))

    @classmethod
    def _load(cls: type[Part], folder: Path) -> Part:
        """The module of a local folder; a subclass that saves more than the two files extends it."""
        content = _read_config(folder / CONFIG_FILE)
        config = _build_config(cls.config_class, cls.__name__, content, folder / CONFIG_FILE)
        tensors = _read_weights(folder / WEIGHTS_FILE, content)
        with torch.random.fork_rng(devices=[]):
            module = cls(config)  # type: ignore[call-arg]
        assert isinstance(module, nn.Module)
        load_exactly(module, tensors, folder / WEIGHTS_FILE)
        return module.eval()

    def _tensors(self) -> dict[str, Tensor]:
        """What ``model.safetensors`` holds."""
        assert isinstance(self, nn.Module)
        return self.state_dict()


def load_exactly(module: nn.Module, tensors: dict[str, Tensor], source: str | os.PathLike[str]) -> None:
    """Gives a module its tensors, with the dtypes they come in; raises ``InputError`` unless names and shapes agree.

    ``source`` is what the error calls the origin of the tensors.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    problems = []
    if missing := sorted(expected.keys() - tensors.keys()):
        problems.append(f"lacks {_some(missing)}")
    if unexpected := sorted(tensors.keys() - expected.keys()):
        problems.append(f"has unknown {_some(unexpected)}")
    for name in sorted(expected.keys() & tensors.keys()):
        if tuple(tensors[name].shape) != expected[name]:
            problems.append(f"has {name} of shape {tuple(tensors[name].shape)} instead of {expected[name]}")
    if problems:
        remedy = f"give tensors that fit this configuration of {type(module).__name__}"
        raise InputError(f"{source} {'; '.join(problems[:5])}: {remedy}.")
    module.load_state_dict(tensors, assign=True)


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _write(path: Path, data: bytes) -> None:
    with atomic_write(path) as partial:
        partial.write_bytes(data)


def find_folder(folder_or_id: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The folder itself, or where a Hugging Face Hub repository's files of a saved module and its gate now lie."""
    folder = Path(folder_or_id)
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download  # only here: a local folder needs no hub

    try:
        found = snapshot_download(str(folder_or_id), revision=revision, allow_patterns=_FETCHED)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{str(folder_or_id)!r} is not a folder here and could not be fetched from the Hugging Face Hub ({error}); "
            f"give a folder with {CONFIG_FILE} and {WEIGHTS_FILE}, or the id of such a repository."
        ) from error
    return Path(found)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing; give a folder written by save_pretrained.") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); save the module again.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} does not hold a JSON object; save the module again.")
    return content


def _build_config(config_class: type[Any], class_name: str, content: dict[str, Any], path: Path) -> Any:
    values = dict(content)
    found = values.pop(CLASS_KEY, None)
    if found != class_name:
        raise InputError(f"{path} describes {found!r}, not {class_name!r}; load it with {found}.from_pretrained.")
    fields = [field.name for field in dataclasses.fields(config_class)]
    if unknown := sorted(values.keys() - set(fields)):
        raise InputError(f"{path} has unknown keys {_some(unknown)}; {config_class.__name__} has {', '.join(fields)}.")
    if missing := [name for name in fields if name not in values]:
        raise InputError(f"{path} lacks {_some(missing)}; add the values that the weights were trained with.")
    try:
        return config_class(**{name: _as_tuples(value) for name, value in values.items()})
    except TypeError as error:
        raise InputError(f"{path} has a value of the wrong type: {error}.") from error


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list) else value


def _read_weights(path: Path, content: dict[str, Any]) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"{path} is missing; give a folder written by save_pretrained.")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise InputError(f"{path} is damaged ({error}); save the module again or fetch the file again.") from error
    if "config" in metadata and json.loads(metadata["config"]) != content:
        raise InputError(
            f"{path} was saved with another configuration than {path.with_name(CONFIG_FILE)} states: an interrupted "
            f"save or an edited file; save the module again, or restore the configuration."
        )
    return tensors
