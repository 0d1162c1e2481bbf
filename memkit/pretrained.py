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
import logging
import os
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar, Unpack

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from memkit.display import changed_fields, described, parameters_of
from memkit.errors import FileError, InputError
from memkit.files.atomic import atomic_write, reading, writing
from memkit.files.checksums import stated_checksum, verify_checksum, without_checksum
from memkit.files.json_files import parse_json, read_json
from memkit.files.models import loading, on_meta
from memkit.files.tensors import check_shapes, list_names, load_exactly, write_safetensors
from memkit.files.values import check_types, hints_of
from memkit.hub import HubOptions, find_folder, upload_folder
from memkit.version import __version__

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CLASS_KEY = "_class_name"
VERSION_KEY = "_memkit_version"
WEIGHTS_KEY = "_weights"
"""In a configuration: the checksum of the weights that it was saved with."""
REPLACES_KEY = "_replaces"
"""In the header of weights that were saved over others with another configuration: the checksum of those."""

log = logging.getLogger(__name__)

Part = TypeVar("Part", bound="Pretrained")  # beartype refuses typing.Self on methods it checks alone


class Pretrained:
    """Mixin of ``save_pretrained``, ``from_pretrained`` and ``push_to_hub`` for modules built from a frozen dataclass.

    Config fields are numbers, strings, booleans, None and (nested) tuples of these.
    """

    config_class: ClassVar[type[Any]]
    files: ClassVar[tuple[str, ...]] = (CONFIG_FILE, WEIGHTS_FILE)
    """All that a folder of this class may hold; other files are neither fetched from the Hub nor touched."""
    config: Any

    def __repr__(self) -> str:
        config = getattr(self, "config", None)
        settings = changed_fields(config) if dataclasses.is_dataclass(config) else ""
        return described(self, settings, parameters_of(self) if isinstance(self, nn.Module) else "")

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Writes both files into ``folder``, made if needed, and returns it; other files there are left alone.

        Each file appears whole or not at all. The weights carry a checksum and a copy of the config and are written
        first, so that a save over another one which is interrupted has saved all of the module, or nothing.

        Raises:
            FileError: the folder cannot be written.
        """
        folder = Path(folder)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        content = {CLASS_KEY: type(self).__name__, **dataclasses.asdict(self.config)}
        marks = {**self._marks(), **_replaced(folder / CONFIG_FILE, content)}
        write_safetensors(folder / WEIGHTS_FILE, self._tensors(), "config", {**content, **marks})
        content = {VERSION_KEY: __version__, **content, WEIGHTS_KEY: stated_checksum(folder / WEIGHTS_FILE)}
        with atomic_write(folder / CONFIG_FILE) as partial:
            partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        return folder

    @classmethod
    def from_pretrained(
        cls: type[Part],
        folder_or_id: str | os.PathLike[str],
        *,
        dtype: torch.dtype | None = None,
        variant: None = None,
        **hub: Unpack[HubOptions],
    ) -> Part:
        """The module saved in a folder or, where no such folder exists, under a Hugging Face Hub id; in eval mode.

        The global random state is left as it was. Fields that the config lacks take the defaults of the config class.

        Args:
            folder_or_id: a local folder, or the id of a Hub repository.
            dtype: of the weights; by default, they keep the dtypes they were saved in.
            variant: always None, which diffusers passes for the components of a modular pipeline: there are none.
            hub: ``revision``, ``subfolder``, ``cache_dir``, ``token``, ``local_files_only`` and ``force_download``, see
                `memkit.hub.HubOptions`.

        Raises:
            InputError: names the file and the item when the folder or a tensor is missing, or a file, a key of the
                config or a tensor is unknown, damaged or of another class or shape.
        """
        folder = find_folder(folder_or_id, cls.files, **hub)
        module = cls._load(folder)
        return module if dtype is None else module.to(dtype)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        revision: str | None = None,
        subfolder: str | None = None,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        create_pr: bool = False,
    ) -> str:
        """Saves the module and uploads it to a Hugging Face Hub repository; returns the URL of the commit.

        Args:
            repo_id: the repository, created if needed; one without a README.md gets a short model card.
            revision: branch to commit to, created if needed; by default ``main``.
            subfolder: folder of the repository to upload into; by default its root.
            commit_message: by default "Upload" and the name of the class.
            private: whether a new repository is private; by default as the account or organisation has it.
            token: Hub token; by default that of ``hf auth login``.
            create_pr: open a pull request instead of committing to a branch.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return upload_folder(
                Path(folder),
                repo_id,
                self.files,
                type(self),
                revision=revision,
                subfolder=subfolder,
                commit_message=commit_message or f"Upload {type(self).__name__}",
                private=private,
                token=token,
                create_pr=create_pr,
            )

    @classmethod
    def _load(cls: type[Part], folder: Path) -> Part:
        """The module of a local folder; a subclass with more ``files`` extends it."""
        path, weights = folder / CONFIG_FILE, folder / WEIGHTS_FILE
        content = read_config(path)
        tensors, saved_with = read_weights(weights)
        if saved_with is not None and saved_with.get(REPLACES_KEY, "") == content.get(WEIGHTS_KEY):
            log.warning("A save was interrupted before %s: the configuration that %s states is used.", path, weights)
            content = saved_with
        config = _build_config(cls, content, str(path))
        if saved_with is not None and not _describes(cls, saved_with, config):
            raise InputError(
                f"{weights} was saved with another configuration than {path} states: files of two modules, or an "
                "edited one; save the module again, or restore the configuration."
            )
        build: Any = partial(cls._build, config, tensors, saved_with or {}, folder)
        with torch.random.fork_rng(devices=[]), loading(path, "restore it, or save the module again"):
            sketch = on_meta(build, len(tensors), path)
            if sketch is not None:  # before a size in the configuration claims memory
                check_shapes(sketch, tensors, weights)
            module = build()
        load_exactly(module, tensors, weights)
        return module.eval()

    @classmethod
    def _build(
        cls: type[Part], config: Any, tensors: dict[str, Tensor], saved_with: Mapping[str, Any], folder: Path
    ) -> Part:
        """The module whose tensors are to be loaded; a subclass with parts beside its config extends it."""
        return cls(config)  # type: ignore[call-arg]

    def _tensors(self) -> dict[str, Tensor]:
        """What ``model.safetensors`` holds."""
        assert isinstance(self, nn.Module)
        return self.state_dict()

    def _marks(self) -> dict[str, Any]:
        """What the weights' header states beside the config, under keys that begin with an underscore."""
        return {}


def _replaced(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """A mark that tells an interrupted save from files of two modules; none where the configuration stays the same."""
    try:
        before = read_config(path)
    except InputError:
        return {}
    if {**before, **content} == before or WEIGHTS_KEY not in before:
        return {}
    return {REPLACES_KEY: before[WEIGHTS_KEY]}


def read_config(path: Path) -> dict[str, Any]:
    """The content of a ``config.json``; raises ``InputError`` where it is missing or no JSON object."""
    if not path.exists():
        raise FileError(f"{path} is missing; give a folder written by save_pretrained.")
    return read_json(path, "give a folder written by save_pretrained, or save the module again", finite=False)


def _build_config(cls: type[Pretrained], content: dict[str, Any], source: str) -> Any:
    found, version = content.get(CLASS_KEY), content.get(VERSION_KEY)
    values = {name: value for name, value in content.items() if not name.startswith("_")}
    if found != cls.__name__:
        raise InputError(f"{source} describes {found!r}, not {cls.__name__!r}; load it with {found}.from_pretrained.")
    fields = {field.name: field for field in dataclasses.fields(cls.config_class)}
    if unknown := sorted(values.keys() - fields.keys()):
        wrote = (
            "does not say which version of memkit wrote it" if version is None else f"was written by memkit {version}"
        )
        raise InputError(
            f"{source} has unknown keys {list_names(unknown)}. It {wrote}; this is memkit {__version__}, whose "
            f"{cls.config_class.__name__} has {', '.join(fields)}. Install the version that wrote it."
        )
    without_default = (dataclasses.MISSING, dataclasses.MISSING)
    required = [name for name, field in fields.items() if (field.default, field.default_factory) == without_default]
    if missing := [name for name in required if name not in values]:
        raise InputError(f"{source} lacks {list_names(missing)}; add the values that the weights were trained with.")
    check_types(values, hints_of(cls.config_class), source, "restore it, or save the module again")
    try:
        return cls.config_class(**{name: _as_tuples(value) for name, value in values.items()})
    except Exception as error:  # a class of one's own raises any type; memkit's do not name the file
        raise InputError(f"{source} has a value that cannot be used: {error}") from error


def _describes(cls: type[Pretrained], content: dict[str, Any], config: Any) -> bool:
    try:
        return _build_config(cls, content, WEIGHTS_FILE) == config
    except InputError:
        return False


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list) else value


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """The tensors, and the copy of the config that they were saved with, if there is one."""
    with reading(path, "give a folder written by save_pretrained"):
        verified = verify_checksum(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            text = (file.metadata() or {}).get("config")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        config = None if text is None else dict(parse_json(text, finite=False))
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise FileError(f"{path} is damaged ({error}); save the module again or fetch the file again.") from error
    return tensors, None if config is None else without_checksum(config, verified, path)
