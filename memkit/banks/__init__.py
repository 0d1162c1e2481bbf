"""Memory banks: captioned clips on disk as latents, and how to build, join and import them.

Each name is loaded from its file when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names as in the table below, for type checkers
    from memkit.banks.bank import MemoryBank
    from memkit.banks.build import BuildReport, build_bank
    from memkit.banks.captions import read_captions
    from memkit.banks.clip import Clip, stack_clips
    from memkit.banks.dit_mem_import import ImportReport, import_dit_mem
    from memkit.banks.features import FeatureBank
    from memkit.banks.fill import build_bank_together, fill_bank
    from memkit.banks.join import join_banks
    from memkit.banks.padding import padded_latents
    from memkit.banks.parallel import fill_together, parts_of
    from memkit.banks.posed_clips import posed_chunks, posed_clip
    from memkit.banks.stream import ClipStream
    from memkit.banks.tar_shards import export_tar
    from memkit.banks.verify import BankReport

_FILES: dict[str, tuple[str, ...]] = {
    "bank": ("MemoryBank",),
    "build": ("BuildReport", "build_bank"),
    "captions": ("read_captions",),
    "clip": ("Clip", "stack_clips"),
    "dit_mem_import": ("ImportReport", "import_dit_mem"),
    "features": ("FeatureBank",),
    "fill": ("build_bank_together", "fill_bank"),
    "join": ("join_banks",),
    "padding": ("padded_latents",),
    "parallel": ("fill_together", "parts_of"),
    "posed_clips": ("posed_chunks", "posed_clip"),
    "stream": ("ClipStream",),
    "tar_shards": ("export_tar",),
    "verify": ("BankReport",),
}

__all__ = [
    "BankReport",
    "BuildReport",
    "Clip",
    "ClipStream",
    "FeatureBank",
    "ImportReport",
    "MemoryBank",
    "build_bank",
    "build_bank_together",
    "export_tar",
    "fill_bank",
    "fill_together",
    "import_dit_mem",
    "join_banks",
    "padded_latents",
    "parts_of",
    "posed_chunks",
    "posed_clip",
    "read_captions",
    "stack_clips",
]


def __getattr__(name: str) -> Any:
    for file, names in _FILES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{file}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
