"""Folders of saved parts on the Hugging Face Hub: fetched by id, uploaded in one commit."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TypedDict

from memkit.errors import InputError
from memkit.version import __version__

# huggingface_hub is imported when it is needed: a local folder needs no hub.


class HubOptions(TypedDict, total=False):
    """How a saved part is fetched from the Hugging Face Hub; the options of `find_folder`."""

    revision: str | None
    """Branch, tag or commit on the Hub."""
    subfolder: str | None
    """Folder inside the local folder or the repository that holds the files."""
    cache_dir: str | os.PathLike[str] | None
    """Where downloads are kept; by default the Hub's own cache."""
    token: str | bool | None
    """Hub token; by default that of ``hf auth login``. False sends none."""
    local_files_only: bool
    """Whether to use what the cache has and connect to nothing."""
    force_download: bool
    """Whether to fetch the files again even if the cache has them."""


def shipped_folder(name: object) -> Path | None:
    """The folder of the weights that memkit ships under this name, such as "tiny-wan"; None if there are none."""
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z-]*", name):
        return None
    folder = Path(str(resources.files("memkit") / "weights" / name))
    return folder if folder.is_dir() else None


def shipped_names() -> list[str]:
    """The names of all weights that memkit ships."""
    weights = Path(str(resources.files("memkit") / "weights"))
    return sorted(folder.name for folder in weights.iterdir() if shipped_folder(folder.name) is not None)


def find_folder(
    folder_or_id: str | os.PathLike[str],
    files: Sequence[str],
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Path:
    """The local folder itself; where there is none, that of the weights that memkit ships under this name; where there
    are none either, that of the files fetched from the Hugging Face Hub.

    Raises `InputError` where there is neither.
    """
    if not isinstance(folder_or_id, str | os.PathLike) or not str(folder_or_id):
        raise InputError(f"{folder_or_id!r} is no folder; give one with {', '.join(files[:2])}, or the id of one.")
    folder, subfolder = Path(folder_or_id), subfolder or None
    if not folder.is_dir():
        folder = shipped_folder(folder_or_id) or folder
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        try:
            folder = Path(
                snapshot_download(
                    str(folder_or_id),
                    revision=revision,
                    cache_dir=None if cache_dir is None else os.fspath(cache_dir),
                    token=token,
                    local_files_only=local_files_only,
                    force_download=force_download,
                    allow_patterns=[file if subfolder is None else f"{subfolder}/{file}" for file in files],
                )
            )
        except Exception as error:  # of httpx, huggingface_hub and the operating system
            raise InputError(
                f"{str(folder_or_id)!r} is not a folder here and could not be fetched from the Hugging Face Hub "
                f"({error}); give a folder with {', '.join(files[:2])}, or the id of such a repository."
            ) from error
    return folder if subfolder is None else folder / subfolder


def upload_folder(
    folder: Path,
    repo_id: str,
    files: Sequence[str],
    cls: type,
    *,
    revision: str | None,
    subfolder: str | None,
    commit_message: str,
    private: bool | None,
    token: str | bool | None,
    create_pr: bool,
) -> str:
    """Uploads ``folder`` in one commit, which deletes those of ``files`` that it lacks; returns the commit's URL.

    A repository whose root has no README.md gets a model card that says how to load ``cls``. Raises `InputError` where
    the Hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not revision.startswith("refs/pr"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        if subfolder is None and not api.file_exists(repo_id, "README.md", revision=revision):
            (folder / "README.md").write_text(_card(repo_id, cls), encoding="utf-8")
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            path_in_repo=subfolder,
            commit_message=commit_message,
            revision=revision,
            create_pr=create_pr,
            delete_patterns=list(files),
        ).commit_url
    except Exception as error:  # of httpx and huggingface_hub
        raise InputError(
            f"{repo_id!r} could not be written to on the Hugging Face Hub ({error}); check the network, the id, and "
            "the token, which `hf auth login` stores."
        ) from error


def _card(repo_id: str, cls: type) -> str:
    """A model card that says what the repository holds and how to load it."""
    return f"""---
library_name: memkit
---

# {repo_id.split("/")[-1]}

A `{cls.__name__}` saved by memkit {__version__}.

```python
from {cls.__module__} import {cls.__name__}

module = {cls.__name__}.from_pretrained("{repo_id}")
```
"""
