"""memkit: memory for video diffusion transformers.

Names are loaded when they are first used, so that ``import memkit`` costs next to nothing beside torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from memkit.version import __version__ as __version__

if TYPE_CHECKING:
    from memkit.backbones import WanBackbone as WanBackbone
    from memkit.banks import MemoryBank as MemoryBank
    from memkit.banks import join_banks as join_banks
    from memkit.cameras import Cameras as Cameras
    from memkit.encoders import FrequencyEncoder as FrequencyEncoder
    from memkit.encoders import HighPass as HighPass
    from memkit.encoders import LowPass as LowPass
    from memkit.errors import MemkitError as MemkitError
    from memkit.injectors import KVCache as KVCache
    from memkit.injectors import SelfAttentionConcat as SelfAttentionConcat
    from memkit.injectors import TeacherForcing as TeacherForcing
    from memkit.memory import Memory as Memory
    from memkit.retrievers import Hits as Hits
    from memkit.retrievers import TextRetriever as TextRetriever
    from memkit.streaming import Stream as Stream

_HOME = {
    "Cameras": "memkit.cameras",
    "FrequencyEncoder": "memkit.encoders",
    "HighPass": "memkit.encoders",
    "Hits": "memkit.retrievers",
    "LowPass": "memkit.encoders",
    "KVCache": "memkit.injectors",
    "MemkitError": "memkit.errors",
    "Memory": "memkit.memory",
    "MemoryBank": "memkit.banks",
    "SelfAttentionConcat": "memkit.injectors",
    "Stream": "memkit.streaming",
    "TeacherForcing": "memkit.injectors",
    "TextRetriever": "memkit.retrievers",
    "WanBackbone": "memkit.backbones",
    "join_banks": "memkit.banks",
}

__all__ = list(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'memkit' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOME]
