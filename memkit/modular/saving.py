"""Blocks that are saved as a custom block of diffusers: a ``modular_config.json``, and the code that it names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from diffusers.modular_pipelines import ModularPipelineBlocks

from memkit.files.atomic import write_text, writing
from memkit.version import __version__

CODE_FILE = "block.py"


class MemkitBlocks(ModularPipelineBlocks):
    """Base of memkit's blocks, for ``save_pretrained``.

    The folder, or Hub repository, is what ``ModularPipelineBlocks.from_pretrained(folder, trust_remote_code=True)``
    loads. Its code imports the class from memkit, which must be installed; weights are not saved with blocks.
    """

    def save_pretrained(self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write ``modular_config.json`` and ``block.py``; see ``ModularPipelineBlocks.save_pretrained``.

        A subclass that is not memkit's own is saved as diffusers does it, without its code.

        Raises:
            FileError: the folder cannot be written, or the Hub refuses.
        """
        kind = type(self)
        if not kind.__module__.startswith("memkit."):
            super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
            return
        folder = Path(save_directory)
        code = f'"""{kind.__name__} of memkit."""\n\nfrom {kind.__module__} import {kind.__name__}  # noqa: F401\n'
        auto_map = {ModularPipelineBlocks.__name__: f"{Path(CODE_FILE).stem}.{kind.__name__}"}
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / CODE_FILE, code)
            self.register_to_config(auto_map=auto_map, requirements={"memkit": f">={__version__}"})
            self.save_config(save_directory=str(folder), push_to_hub=push_to_hub, **kwargs)
