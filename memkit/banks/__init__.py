"""Memory banks: captioned clips on disk as latents, and how to build, join and import them."""

from memkit.banks.bank import MemoryBank
from memkit.banks.build import BuildReport, build_bank
from memkit.banks.captions import read_captions
from memkit.banks.clip import BankReport, Clip
from memkit.banks.dit_mem_import import ImportReport, import_dit_mem
from memkit.banks.join import join_banks

__all__ = [
    "BankReport",
    "BuildReport",
    "Clip",
    "ImportReport",
    "MemoryBank",
    "build_bank",
    "import_dit_mem",
    "join_banks",
    "read_captions",
]
