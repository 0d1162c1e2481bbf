"""Files of memkit with other content and a right checksum: what a reader must still refuse by itself."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file

from memkit.files.json_files import write_json
from memkit.files.tensors import write_safetensors


def edit_json(path: Path, **changes: Any) -> None:
    """Other entries in a JSON file."""
    write_json(path, json.loads(path.read_text("utf-8")) | changes)


def edit_header(path: Path, key: str, without: Iterable[str] = (), **changes: Any) -> None:
    """Other entries in the JSON under ``key`` of a safetensors file's metadata, without some of its tensors."""
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()[key])
    tensors = {name: x.clone() for name, x in load_file(path).items() if name not in set(without)}
    write_safetensors(path, tensors, key, header | changes)
