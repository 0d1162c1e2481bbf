"""Keep the bars and remarks of other libraries out of what a command prints; errors and memkit's own warnings stay."""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

REMARKS = (
    "torch.utils._pytree",  # enumerations that torchao registers
    "bitsandbytes.backends.cpu.ops",  # kernels that are not installed
    "diffusers.quantizers.torchao.torchao_quantizer",  # a version of torchao that diffusers cannot use
)
"""Loggers that remark on optional packages whenever they are imported, used or not."""
BARS = ("diffusers.utils.logging", "transformers.utils.logging")
"""Modules that switch off the bars of loading a model, which take a moment; those of downloads stay."""


def quiet_libraries() -> None:
    """Quieten the libraries that are imported, and those that will be. A command calls it before it does anything."""
    for name in REMARKS:
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in BARS:
        if name in sys.modules:
            _without_bars(sys.modules[name])
    if not any(isinstance(finder, _QuietFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _QuietFinder())


def _without_bars(module: ModuleType) -> None:
    module.disable_progress_bar()
    import_module("huggingface_hub.utils").enable_progress_bars()  # transformers switches these off as well


class _QuietFinder(MetaPathFinder):
    """Finds the modules in `BARS` as Python does, and switches the bars off once one is imported."""

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname in BARS else None
        if spec is not None and spec.loader is not None:
            spec.loader = _QuietLoader(spec.loader)
        return spec


class _QuietLoader(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _without_bars(module)
