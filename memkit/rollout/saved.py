"""Context methods on disk: a folder has the parts that a method trains, each in a folder of its own."""

from __future__ import annotations

import os
from pathlib import Path

from torch import nn

from memkit.errors import InputError
from memkit.injectors.frame_context.context import FrameContext
from memkit.injectors.query_layers.layers import QueryLayers
from memkit.pretrained import Pretrained
from memkit.rollout.base import ContextMethod


def parts_of(method: ContextMethod) -> dict[str, Pretrained]:
    """What a method trains, by the name of its folder; ``part.save_pretrained(folder / name)`` saves it."""
    return {name: part for name, part in method.named_children() if isinstance(part, Pretrained)}


def load_parts(method: ContextMethod, folder: str | os.PathLike[str]) -> None:
    """Load the parts of a method that were saved in ``folder``.

    Raises `InputError` for a folder of another kind of method, or of one that was made with other settings.
    """
    for name, part in parts_of(method).items():
        place = Path(folder) / name
        if not (place / "config.json").exists():
            raise InputError(f"{folder} holds no method of this kind: there is no {place}.")
        saved = type(part).from_pretrained(place)
        if saved.config != part.config:
            raise InputError(f"{place} was trained with {saved.config}, the settings say {part.config}.")
        _module(part).load_state_dict(_module(saved).state_dict())


def camera_encoders(method: ContextMethod) -> nn.ModuleDict:
    """The encoders of the chunk's own cameras, by the kind of the poses; every method of `memkit.rollout` has them."""
    for part in method.children():
        if isinstance(part, QueryLayers | FrameContext):
            return part.cameras
    raise InputError(f"{type(method).__name__} has no encoder of the chunk's cameras.")


def copy_camera_encoders(method: ContextMethod, folder: str | os.PathLike[str]) -> None:
    """Copy the camera encoders of a saved method, of whatever kind; those of kinds of poses it lacks stay as they are.

    Raises `InputError` where ``folder`` holds no method.
    """
    for name, kind in (("query", QueryLayers), ("context", FrameContext)):
        if (Path(folder) / name / "config.json").exists():
            saved = kind.from_pretrained(Path(folder) / name).cameras
            for annotation, encoder in camera_encoders(method).items():
                if annotation in saved:
                    encoder.load_state_dict(saved[annotation].state_dict())
            return
    raise InputError(f"{folder} holds no method; give the folder of a run that was trained.")


def _module(part: Pretrained) -> nn.Module:
    assert isinstance(part, nn.Module)
    return part
