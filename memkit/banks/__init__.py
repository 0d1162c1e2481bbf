"""Memory banks: captioned clips on disk as latents, and how to build, join and import them."""

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
