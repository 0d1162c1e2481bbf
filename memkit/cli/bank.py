"""``memkit bank``: build, import, verify or show a memory bank."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from memkit.cli.text import one_line
from memkit.display import counted, size_of
from memkit.errors import InputError

if TYPE_CHECKING:
    from memkit.banks.build import BuildReport
    from memkit.banks.dit_mem_import import ImportReport

# Commands import what they need when they run, so that --help does not wait for torch.


@dataclass(frozen=True)
class Build:
    """Encode captioned videos into a memory bank; a run that was stopped is resumed.

    The CSV has the columns video and caption, and optionally id and source. Clips keep their own speed.
    """

    videos: Path
    """Folder of the videos."""
    captions: Path
    """Caption file, CSV in UTF-8."""
    out: Path
    """Folder of the bank: a new one, or one that was built with the same settings."""
    model: str
    """The Wan model whose VAE encodes the videos: "tiny", a diffusers folder, or a Hub id."""
    num_frames: int | None = None
    """Frames per clip; by default those of the model."""
    height: int | None = None
    """In pixels; by default that of the model."""
    width: int | None = None
    """In pixels; by default that of the model."""
    fps: float | None = None
    """Frames per second; by default those of the model."""
    cut: Literal["start", "center"] = "start"
    """Which part of longer clips to keep."""
    pad: Literal["hold", "loop", "error"] = "hold"
    """How to pad shorter clips: hold the last frame, loop, or report an error."""
    resize: Literal["crop", "fit", "stretch"] = "crop"
    """Crop to cover the frame, fit inside black bars, or stretch without keeping the proportions."""
    dtype: Literal["bf16", "fp16", "fp32"] = "bf16"
    """The dtype in which latents are stored."""
    skip_bad: bool = False
    """Exit with status 0 even if some items could not be used; they are listed either way."""

    def run(self) -> int:
        from memkit.banks.build import build_bank

        report = build_bank(
            self.videos,
            self.captions,
            self.out,
            _load_encoder(self.model),
            self.model,
            num_frames=self.num_frames,
            height=self.height,
            width=self.width,
            fps=self.fps,
            cut=self.cut,
            pad=self.pad,
            resize_rule=self.resize,
            dtype=self.dtype,
            progress=True,
        )
        for item in report.bad:
            print(f"{self.captions}:{item.line}: {item.name}: {one_line(item.reason)}", file=sys.stderr)
        return _finish(self.out, report, self.skip_bad)


@dataclass(frozen=True)
class ImportDitMem:
    """Turn a folder of the DiT-Mem release into a memory bank; a run that was stopped is resumed.

    The folder holds id_map.json, labels.index, metadata.json, and per clip a .pt file of latents or an mp4 file, which
    may lie in subfolders.
    """

    folder: tyro.conf.Positional[Path]
    """Folder of the release."""
    out: Path
    """Folder of the bank: a new one, or one that was imported with the same model."""
    captions: Path | None = None
    """CSV with the columns video and caption; by default captions come from metadata.json."""
    model: str | None = None
    """The Wan model whose VAE encodes clips without latents: "tiny", a diffusers folder, or a Hub id."""
    skip_bad: bool = False
    """Exit with status 0 even if some items could not be used; they are listed either way."""

    def run(self) -> int:
        from memkit.banks.dit_mem_import import import_dit_mem

        encoder = None if self.model is None else _load_encoder(self.model)
        report = import_dit_mem(self.folder, self.out, self.captions, encoder, self.model, progress=True)
        for item in report.bad:
            print(f"{self.folder}: {item.name}: {one_line(item.reason)}", file=sys.stderr)
        blank = f", {report.blank} with a blank caption left out" if report.blank else ""
        unlisted = f", {report.unlisted} captions are of clips outside the id map" if report.unlisted else ""
        return _finish(self.out, report, self.skip_bad, blank + unlisted)


@dataclass(frozen=True)
class Verify:
    """Read every clip of a bank and check it against its checksum."""

    bank: tyro.conf.Positional[str]
    """Folder of the bank, or its URL, such as s3://bucket/bank."""

    def run(self) -> int:
        from memkit.banks.bank import MemoryBank

        report = MemoryBank.open(self.bank).verify()
        print(f"{self.bank}: {_held(report.clips, report.shards)}, {size_of(report.bytes)}, all sound")
        return 0


@dataclass(frozen=True)
class Show:
    """Print the contents of a bank."""

    bank: tyro.conf.Positional[str]
    """Folder of the bank, or its URL, such as s3://bucket/bank."""
    first: int = 10
    """How many clips to list."""

    def run(self) -> int:
        from memkit.banks.bank import MemoryBank
        from memkit.checks import check_whole

        check_whole("--first", self.first)
        bank = MemoryBank.open(self.bank)
        print(f"{self.bank}: {counted(len(bank), 'clip')} from {counted(len(set(bank.sources)), 'source')}")
        for name, value in bank.info.items():
            print(f"  {name}: {value}")
        for (shape, dtype), count in Counter(zip(bank.shapes, bank.dtypes, strict=True)).items():
            print(f"  {counted(count, 'clip')} of {list(shape)} {str(dtype).removeprefix('torch.')}")
        for id, caption in list(zip(bank.ids, bank.captions, strict=True))[: self.first]:
            print(f"{id}\t{one_line(caption)}")
        if len(bank) > self.first:
            print(f"… and {len(bank) - self.first} more")
        return 0


@dataclass(frozen=True)
class Export:
    """Write a bank as WebDataset shards, which are streamed for training; an export that was stopped is resumed."""

    bank: tyro.conf.Positional[str]
    """Folder of the bank, or its URL, such as s3://bucket/bank."""
    out: Path
    """A new folder for the shards."""
    seed: int | None = None
    """Of a random order of the clips; by default they keep that of the bank."""
    shard_mib: int = 256
    """Size at which a shard ends, in MiB. A reader holds one shard in memory."""

    def run(self) -> int:
        from memkit.banks.bank import MemoryBank
        from memkit.banks.tar_shards import export_tar
        from memkit.checks import check_whole

        check_whole("--shard-mib", self.shard_mib, 1)
        bank = MemoryBank.open(self.bank)
        shards = export_tar(bank, self.out, self.shard_mib * 2**20, self.seed)
        print(f"{self.out}: {_held(len(bank), shards)}")
        return 0


@dataclass(frozen=True)
class Bank:
    """Build, import, verify, show or export a memory bank."""

    command: (
        Annotated[Build, tyro.conf.subcommand("build")]
        | Annotated[ImportDitMem, tyro.conf.subcommand("import-dit-mem")]
        | Annotated[Verify, tyro.conf.subcommand("verify")]
        | Annotated[Show, tyro.conf.subcommand("show")]
        | Annotated[Export, tyro.conf.subcommand("export")]
    )

    def run(self) -> int:
        return self.command.run()


def _load_encoder(model: str) -> Any:
    import torch

    from memkit.backbones.codec import WanCodec

    try:
        codec = WanCodec.tiny() if model == "tiny" else WanCodec.from_pretrained(model)
    except (OSError, ValueError) as error:
        why = one_line(str(error))
        raise InputError(f"The model {model!r} cannot be loaded ({why}); give tiny, a folder or a Hub id.") from error
    if torch.cuda.is_available():
        codec.vae.to("cuda")  # pyright: ignore[reportArgumentType]  # diffusers wraps it without its types
    return codec


def _held(clips: int, shards: int) -> str:
    return f"{counted(clips, 'clip')} in {counted(shards, 'shard')}"


def _finish(bank: Path, report: BuildReport | ImportReport, skip_bad: bool, left_out: str = "") -> int:
    """Say what a bank has got and what comes next; the exit code. Raises `InputError` where it has got nothing."""
    there = f", {len(report.present)} were there" if report.present else ""
    added = counted(len(report.added), "clip")
    print(f"{bank}: {added} added{there}{left_out}, {len(report.bad)} could not be used")
    if not report.added and not report.present:
        raise InputError(f"No item could be added to {bank}; list videos that can be used.")
    print(f'Next: memkit retrieve {bank} "what to search for"')
    return 1 if report.bad and not skip_bad else 0
