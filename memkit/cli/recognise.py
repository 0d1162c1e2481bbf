"""What is no checkpoint of Wan: what memkit saves, DiT-Mem's encoder, and diffusers folders; for ``memkit inspect``."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import torch

import memkit.encoders
import memkit.injectors
import memkit.positions
from memkit.backbones.checkpoints.plan import open_source
from memkit.backbones.checkpoints.report import Report, sizes
from memkit.backbones.checkpoints.source import Source
from memkit.banks.bank import MemoryBank
from memkit.encoders.dit_mem import load_dit_mem
from memkit.errors import MemkitError
from memkit.files.headers import safetensors_header
from memkit.files.weights_format import weights_format
from memkit.pretrained import CLASS_KEY, CONFIG_FILE, WEIGHTS_FILE, read_config

_PARTS = {name: room for room in (memkit.encoders, memkit.injectors, memkit.positions) for name in room.__all__}
"""Where the classes are public that a ``config.json`` of memkit may name."""

_SAVED = {
    "memkit-kv-cache": ("a saved KV cache", "from memkit import KVCache; KVCache.load({path!r})"),
    "memkit-history": ("a saved history of frames", "from memkit import History; History.load({path!r})"),
    "memkit-surfels": ("a saved map of surfels", "from memkit import SurfelRetriever; SurfelRetriever.load({path!r})"),
    "memkit-lifted-latents": ("saved latent cells", "from memkit import LiftedLatents; LiftedLatents.load({path!r})"),
}


def report_of_others(path: Path) -> Report | None:
    """The report of what memkit or DiT-Mem saved, or of a diffusers folder; None for anything else.

    Raises `MemkitError` where one of memkit's own is damaged.
    """
    if path.is_dir():
        return _folder(path)
    if not path.is_file() or path.name.endswith(".index.json"):
        return None
    return _file(path)


def _folder(folder: Path) -> Report | None:
    if (folder / "bank.json").is_file():
        return _bank(folder)
    if (folder / "stream.json").is_file():
        return Report("a saved stream", (), f"from memkit import Stream; Stream.load({str(folder)!r}, backbone)")
    if (folder / "model_index.json").is_file():
        return _diffusers_folder(folder, read_config(folder / "model_index.json").get(CLASS_KEY))
    if not (folder / CONFIG_FILE).is_file():
        return None
    name = read_config(folder / CONFIG_FILE).get(CLASS_KEY)
    if isinstance(name, str) and name in _PARTS:
        return _part(folder, name)
    if isinstance(name, str) and name.endswith("Transformer3DModel"):
        return _diffusers_folder(folder, name)
    return None


def _file(path: Path) -> Report | None:
    if weights_format(path) == "safetensors":
        for value in (safetensors_header(path).get("__metadata__") or {}).values():
            found = re.search(r'"format": "(memkit-[\w-]+)"', value)
            if found and found[1] in _SAVED:
                what, line = _SAVED[found[1]]
                return Report(what, (), line.format(path=str(path)))
    source = open_source(path)
    if any(re.match(r"(pipe\.)?(dit_mem\.)?(high|low)_pass_module\.", name) for name in source.tensors):
        return _dit_mem(path, source)
    return None


def _bank(folder: Path) -> Report:
    bank = MemoryBank.open(folder)
    facts = (("clips", str(len(bank))), *((name, str(value)) for name, value in bank.info.items()))
    return Report("a memory bank", facts, f"from memkit import MemoryBank; MemoryBank.open({str(folder)!r})")


def _part(folder: Path, name: str) -> Report:
    """A folder that ``save_pretrained`` of memkit wrote."""
    config = {key: value for key, value in read_config(folder / CONFIG_FILE).items() if not key.startswith("_")}
    source = open_source(folder / WEIGHTS_FILE)
    facts = (("tensors", sizes(source.tensors.values())), ("configuration", json.dumps(config)))
    line = f"from {_PARTS[name].__name__} import {name}; {name}.from_pretrained({str(folder)!r})"
    return Report(f"a {name} of memkit", facts, line)


def _dit_mem(path: Path, source: Source) -> Report:
    """DiT-Mem's encoder, loaded without its values to see whether it is whole."""
    names = [name for name in source.tensors if ".cnn." not in name]  # aliases of the same layers
    state = {name: torch.empty(source.tensors[name].shape, device="meta") for name in names}
    facts: list[tuple[str, str]] = [("tensors", sizes(source.tensors.values()))]
    what = "an encoder of DiT-Mem"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            encoder: Any = load_dit_mem(state)
        except MemkitError as error:
            return Report(what, tuple(facts), "", str(error))
    facts.append(("configuration", str(encoder.config)))
    facts += [("note", str(each.message)) for each in caught if "BatchNorm" in str(each.message)]
    return Report(what, tuple(facts), f"from memkit import load_dit_mem; load_dit_mem({str(path)!r})")


def _diffusers_folder(folder: Path, name: Any) -> Report:
    line = f"from memkit import WanBackbone; WanBackbone.from_pretrained({str(folder)!r})"
    if name in ("WanPipeline", "WanImageToVideoPipeline", "WanTransformer3DModel"):
        return Report(f"a {name} in diffusers' format", (), line)
    problem = f"WanBackbone holds a WanTransformer3DModel; load this with diffusers' {name}.from_pretrained."
    return Report(f"a {name} in diffusers' format", (), "", problem)
