"""`make_encoder` creates an encoder by name or path, and `load_encoder` loads a saved encoder of any class."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from typing import Any, Literal, Unpack, get_args

from memkit.checks import check_choice
from memkit.encoders.base import MemoryEncoder
from memkit.encoders.dit_mem import DitMemEncoder
from memkit.encoders.frequency import FrequencyEncoder, HighPassOnlyEncoder, LowPassOnlyEncoder, NoFilterEncoder
from memkit.encoders.own import own_encoder
from memkit.encoders.patch import PatchEncoder
from memkit.errors import InputError, nearest
from memkit.hub import HubOptions, find_folder
from memkit.pretrained import CLASS_KEY, CONFIG_FILE, read_config

EncoderName = Literal["frequency", "dit_mem", "lowpass-only", "highpass-only", "no-filter", "patch"]
EncoderSize = Literal["tiny", "wan2.1-1.3b", "wan2.2-5b", "wan2.2-a14b"]
PRESETS: dict[str, str] = {
    "tiny": "tiny",
    "wan2.1-1.3b": "wan_1_3b",
    "wan2.2-5b": "wan_5b",
    "wan2.2-a14b": "wan_14b",
}
"""The class method of a config class that returns the config of each `EncoderSize`."""


def make_encoder(
    name: EncoderName | str, size: EncoderSize, *, dim: int | None = None, latent_channels: int | None = None
) -> MemoryEncoder:
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

    An encoder of your own is named by the path to its class, a subclass of `MemoryEncoder`, as in
    "mypackage.module:MyEncoder" or "mypackage.module.MyEncoder". Its ``config_class`` is a dataclass with the fields
    ``dim`` and ``latent_channels``. It may have a class method for each size, as in ``PRESETS``; without one,
    ``config_class(dim=..., latent_channels=...)`` is used, and both values must be given.

    Raises:
        InputError: the name or the size is unknown, or the path does not lead to such a class.
    """
    kind = _class(name)
    changes = {"dim": dim, "latent_channels": latent_channels}
    given = {key: value for key, value in changes.items() if value is not None}
    return kind(_config(kind.config_class, size, given))


def load_encoder(
    folder_or_id: str | os.PathLike[str],
    encoder: str | type[MemoryEncoder] | None = None,
    **hub: Unpack[HubOptions],
) -> MemoryEncoder:
    """Load an encoder of any class that was saved by ``save_pretrained``, in eval mode and with its gate, if any.

    Takes a local folder or a Hugging Face Hub id, and the options of ``from_pretrained`` (`memkit.hub.HubOptions`).

    The folder names its class, by which memkit's own encoders are found. It says nothing of where another class is
    defined, and no module is imported because a file names it: give ``encoder``, your class or the path to it, as for
    `make_encoder`. It is then loaded if it is the class of the folder. The name of one of memkit's encoders, which are
    all known, changes nothing.

    Raises:
        InputError: the folder contains something else, or ``from_pretrained`` cannot load it.
    """
    folder = find_folder(folder_or_id, MemoryEncoder.files, **hub)
    class_name = read_config(folder / CONFIG_FILE).get(CLASS_KEY)
    kinds = {kind.__name__: kind for kind in map(_class, get_args(EncoderName))}
    if encoder is not None:
        own = encoder if isinstance(encoder, type) and issubclass(encoder, MemoryEncoder) else _class(encoder)
        kinds[own.__name__] = own
    if class_name not in kinds:
        raise InputError(
            f"{folder / CONFIG_FILE} describes {class_name!r}; give a folder with one of {', '.join(kinds)}, or your "
            "class: load_encoder(folder, encoder='mypackage.module:MyEncoder')."
        )
    return kinds[class_name].from_pretrained(folder)


def _class(name: EncoderName | str) -> type[MemoryEncoder]:
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
        case _ if not isinstance(name, str):
            raise InputError(f"The encoder is {name!r}; give a name, or the path to a class, as text.")
        case _ if ":" in name or "." in name:
            return own_encoder(name)
        case _:
            raise InputError(
                f"Unknown encoder {name!r}; choose one of {', '.join(get_args(EncoderName))}, or give the path to a "
                f"class of your own, such as 'mypackage.module:MyEncoder'.{nearest(name, get_args(EncoderName))}"
            )


def _config(config_class: type[Any], size: EncoderSize, given: dict[str, int]) -> Any:
    """The config of this size with the values ``given`` of ``dim`` and ``latent_channels``."""
    check_choice("The size", size, PRESETS)
    name, required = config_class.__name__, {"dim", "latent_channels"}
    if missing := required - {field.name for field in fields(config_class)}:
        raise InputError(f"{name} lacks {', '.join(sorted(missing))}; add these fields, of type int.")
    if (preset := getattr(config_class, PRESETS[size], None)) is not None:
        return replace(preset(), **given)
    if missing := required - given.keys():
        raise InputError(
            f"{name} has no class method {PRESETS[size]}() for the size {size!r}; add one, or give "
            f"{' and '.join(sorted(missing))} of the backbone."
        )
    return config_class(**given)
