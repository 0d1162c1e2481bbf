"""JSON files that appear whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from memkit.files import atomic_write


def write_json(file: Path, content: Any) -> None:
    """The file appears whole or not at all."""
    with atomic_write(file) as partial:
        partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
