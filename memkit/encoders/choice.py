"""`make_encoder` creates an encoder by name, and `load_encoder` loads a saved encoder of any class."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, Literal, get_args

from memkit.encoders.base import MemoryEncoder
from memkit.encoders.dit_mem import DitMemEncoder
from memkit.encoders.frequency import FrequencyEncoder, HighPassOnlyEncoder, LowPassOnlyEncoder, NoFilterEncoder
from memkit.encoders.patch import PatchEncoder
from memkit.errors import InputError
from memkit.hub import find_folder
from memkit.pretrained import CLASS_KEY, CONFIG_FILE, read_config

EncoderName = Literal["frequency", "dit_mem", "lowpass-only", "highpass-only", "no-filter", "patch"]
EncoderSize = Literal["tiny", "wan2.1-1.3b", "wan2.2-5b", "wan2.2-a14b"]
Encoder = FrequencyEncoder | DitMemEncoder | PatchEncoder


def make_encoder(
    name: EncoderName, size: EncoderSize, *, dim: int | None = None, latent_channels: int | None = None
) -> Encoder:
    """Create an encoder for a size of backbone, with weights drawn from the global random state.

    ``dim`` and ``latent_channels`` are the backbone's width and number of latent channels; by default, those of
    ``size``. For other settings, create the class from its config. At size "tiny":

    | name            | class                 | tokens per clip           | parameters |
    |-----------------|-----------------------|---------------------------|------------|
    | "frequency"     | `FrequencyEncoder`    | 40                        | 0.65 M     |
    | "lowpass-only"  | `LowPassOnlyEncoder`  | 40                        | 0.65 M     |
    | "highpass-only" | `HighPassOnlyEncoder` | 40                        | 0.65 M     |
    | "no-filter"     | `NoFilterEncoder`     | 40                        | 0.65 M     |
    | "patch"         | `PatchEncoder`        | 40                        | 0.04 M     |
    | "dit_mem"       | `DitMemEncoder`       | 2, which stand for 200    | 0.66 M     |

    Raises:
        InputError: the name or the size is unknown.
    """
    kind = _class(name)
    config = _preset(kind, size)
    changes = {"dim": dim, "latent_channels": latent_channels}
    return kind(replace(config, **{key: value for key, value in changes.items() if value is not None}))


def load_encoder(
    folder_or_id: str | os.PathLike[str],
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Encoder:
    """Load an encoder of any class that was saved by ``save_pretrained``, in eval mode and with its gate, if any.

    Takes a local folder or a Hugging Face Hub id, and the options of ``from_pretrained``.

    Raises:
        InputError: the folder contains something else, or ``from_pretrained`` cannot load it.
    """
    folder = find_folder(
        folder_or_id,
        MemoryEncoder.files,
        revision=revision,
        subfolder=subfolder,
        cache_dir=cache_dir,
        token=token,
        local_files_only=local_files_only,
        force_download=force_download,
    )
    class_name = read_config(folder / CONFIG_FILE).get(CLASS_KEY)
    kinds = {kind.__name__: kind for kind in map(_class, get_args(EncoderName))}
    if class_name not in kinds:
        raise InputError(
            f"{folder / CONFIG_FILE} describes {class_name!r}; give a folder with one of {', '.join(kinds)}."
        )
    return kinds[class_name].from_pretrained(folder)


def _class(name: EncoderName) -> type[Encoder]:
    match name:
        case "frequency":
            return FrequencyEncoder
        case "dit_mem":
            return DitMemEncoder
        case "lowpass-only":
            return LowPassOnlyEncoder
        case "highpass-only":
            return HighPassOnlyEncoder
        case "no-filter":
            return NoFilterEncoder
        case "patch":
            return PatchEncoder
        case _:
            raise InputError(f"Unknown encoder {name!r}; choose one of {', '.join(get_args(EncoderName))}.")


def _preset(kind: type[Encoder], size: EncoderSize) -> Any:
    match size:
        case "tiny":
            return kind.config_class.tiny()
        case "wan2.1-1.3b":
            return kind.config_class.wan_1_3b()
        case "wan2.2-5b":
            return kind.config_class.wan_5b()
        case "wan2.2-a14b":
            return kind.config_class.wan_14b()
        case _:
            raise InputError(f"Unknown size {size!r}; choose one of {', '.join(get_args(EncoderSize))}.")
