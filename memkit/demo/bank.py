"""The bank of the demo, with the clips that come with memkit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import memkit
from memkit.errors import BankError
from memkit.files.checksums import verify_sums

if TYPE_CHECKING:
    from torch import Tensor

CLIPS = Path(__file__).parent / "clips"
"""The folder of the 24 clips, with captions.csv."""


def demo_bank(folder: Path, model: str, backbone: memkit.WanBackbone) -> memkit.MemoryBank:
    """Build the bank of the shipped clips, or open that of an earlier run if its contents are still the same."""
    from memkit.banks.build import build_bank
    from memkit.banks.captions import read_captions

    verify_sums(CLIPS)
    captions = CLIPS / "captions.csv"
    built = build_bank(CLIPS, captions, folder, backbone, model)
    bank = memkit.MemoryBank.open(folder)
    rows, _ = read_captions(captions, CLIPS)
    wrong = [f"{item.name}: {item.reason}" for item in built.bad]
    if not wrong and set(bank.ids) != {row.id for row in rows}:
        wrong = ["it holds clips of another origin"]
    if not wrong and built.present and not _same_latents(bank, built.present[0], backbone):
        wrong = ["its latents are those of other weights"]
    if wrong:
        raise BankError(f"The bank {folder} is not that of the demo ({wrong[0]}); delete that folder and run again.")
    return bank


def _same_latents(bank: memkit.MemoryBank, id: str, backbone: memkit.WanBackbone) -> bool:
    """Whether the backbone encodes a clip to the latents in the bank, up to rounding."""
    from memkit.video.frames import resize
    from memkit.video.pixels import to_model

    frames = resize(frames_of(bank, id), bank.info["height"], bank.info["width"])
    fresh, stored = backbone.encode_video(to_model(frames))[0], bank.clip(id).latents.float()
    return bool((fresh - stored).norm() < 0.02 * fresh.norm())


def frames_of(bank: memkit.MemoryBank, id: str) -> Tensor:
    """The frames of a clip, cut as in the bank, at the size of the file."""
    from memkit.video.frames import read_clip

    return read_clip(CLIPS / id, bank.info["fps"], bank.info["num_frames"])
