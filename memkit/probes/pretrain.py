"""The base of a probe: a model that has learned to retrieve, with everything in its sequence."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from filelock import FileLock

from memkit.errors import InputError
from memkit.files.atomic import writing
from memkit.files.tensors import FileKind, load_exactly, open_tensors, save_tensors
from memkit.injectors.camera_encoder import CameraEncoder
from memkit.probes.mechanisms.frames import Window
from memkit.probes.probe import Probe
from memkit.probes.settings import ProbeSettings
from memkit.probes.training import train

KIND, KEY = FileKind("pretrained base of a probe", "memkit-probe-base", 1), "base"


def pretrained(
    probe: Probe[Any],
    settings: ProbeSettings,
    folder: Path,
    progress: bool = False,
    device: torch.device | str = "cpu",
) -> tuple[WanTransformer3DModel, CameraEncoder]:
    """A model and its encoder of cameras, trained on the probe with its whole past in the sequence.

    It is trained once and kept in ``folder``, with a checksum, under a name that follows from all that it depends on.
    Processes that need the same one wait for each other.

    Raises:
        FileError: the folder cannot be written, or a file in it is damaged; delete that file.
    """
    content = json.loads(json.dumps(_content(probe, settings)))
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    file = folder / f"{probe.name}-{digest[:12]}.safetensors"
    transformer: Any = settings.model(settings.base_seed)
    transformer.to(device)
    mechanism = Window(transformer, probe).to(device)
    encoder: Any = mechanism.frames.cameras["exact"]
    modules = {"transformer": transformer, "cameras": encoder}
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(file.with_suffix(".lock"))
    with lock:
        if not file.exists():
            batches, steps = probe.batches("pretrain", settings.base_seed, settings.batch), base_steps(probe, settings)
            title = f"{probe.name}: base" if progress else ""
            losses = train(transformer, mechanism, batches, settings, steps, settings.base_seed, title)
            tensors = {f"{name}.{key}": x for name, each in modules.items() for key, x in each.state_dict().items()}
            save_tensors(file, KIND, KEY, {**content, "loss": losses[-50:]}, tensors)
            return transformer, encoder
    with open_tensors(file, KIND, KEY) as (header, opened):
        if {name: header[name] for name in content} != content:
            raise InputError(f"{file} is the base of other settings; delete it.")
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
        for name, module in modules.items():
            own = {key.removeprefix(f"{name}."): x for key, x in tensors.items() if key.startswith(f"{name}.")}
            load_exactly(module, own, file)
    return transformer, encoder


def _content(probe: Probe[Any], settings: ProbeSettings) -> dict[str, Any]:
    """All that the base depends on."""
    used = {name: value for name, value in asdict(settings).items() if name not in ("steps", "samples")}
    used["pretrain_steps"] = base_steps(probe, settings)
    ranges = {name: each.train for name, each in probe.ranges.items()}
    return {"probe": probe.name, "knobs": asdict(probe.knobs), "ranges": ranges, "settings": used}


def base_steps(probe: Probe[Any], settings: ProbeSettings) -> int:
    """Training steps of the base."""
    return probe.pretrain_steps if settings.pretrain_steps is None else settings.pretrain_steps


def mechanism_steps(probe: Probe[Any], settings: ProbeSettings) -> int:
    """Training steps of each mechanism."""
    return probe.steps if settings.steps is None else settings.steps
