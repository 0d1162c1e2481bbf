"""`make_encoder` and `load_encoder`: encoders by name, to compare them or to load whichever was saved."""

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
    """A new encoder of the size for a backbone, with weights drawn from the global random state.

    ``dim`` and ``latent_channels`` are the backbone's width and latent channels; by default those of ``size``.
    For any other setting, build the class from its config.

    | name            | class                 | tokens per clip, ``tiny`` | parameters |
    |-----------------|-----------------------|---------------------------|------------|
    | "frequency"     | `FrequencyEncoder`    | 40                        | 0.65 M     |
    | "lowpass-only"  | `LowPassOnlyEncoder`  | 40                        | the same   |
    | "highpass-only" | `HighPassOnlyEncoder` | 40                        | the same   |
    | "no-filter"     | `NoFilterEncoder`     | 40                        | the same   |
    | "patch"         | `PatchEncoder`        | 40                        | 0.04 M     |
    | "dit_mem"       | `DitMemEncoder`       | 2 that stand for 200      | 0.66 M     |
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
    """The encoder that ``save_pretrained`` wrote, whichever of these it is, in eval mode and with its gate, if any.

    Takes a local folder or a Hugging Face Hub id, and the options of ``from_pretrained``. Raises ``InputError`` as
    ``from_pretrained`` does, and where the folder holds something else.
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
    found = read_config(folder / CONFIG_FILE).get(CLASS_KEY)
    kinds = {kind.__name__: kind for kind in map(_class, get_args(EncoderName))}
    if found not in kinds:
        raise InputError(f"{folder / CONFIG_FILE} describes {found!r}, which is none of {', '.join(kinds)}.")
    return kinds[found].from_pretrained(folder)


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
