"""Turn a folder of the DiT-Mem release into a memory bank.

The folder holds one ``.pt`` of latents or one mp4 per clip, in it or below it, as `memkit.dit_mem_release.clips` finds
them, and

    id_map.json     the names of the clips; without it, the clips are those that have a caption
    labels.index    their caption vectors; only checked against the id map: a bank makes its own, by any text encoder
    metadata.json   captions: one object with ``caption`` per clip, in a list or by row number or name, or name ->
                    caption (our reading; the release states nothing but the name of the file)

A CSV with ``video,caption`` (its score columns are ignored) replaces ``metadata.json`` if it is given. Clips with a
blank caption are left out and counted, as in the release. Every other clip is in the bank, under its name in the id map
and with its stem as source, or is a `BadItem` of the report.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from memkit.banks.bank import MemoryBank
from memkit.banks.build import VideoEncoder, add_rows, bank_for, clip_settings, encode_file
from memkit.banks.captions import BadItem, Row, caption_records
from memkit.dit_mem_release.clips import is_latents, match_released_clips, stem
from memkit.dit_mem_release.id_map import NAME_KEYS, read_id_map
from memkit.dit_mem_release.latents import read_released_latents
from memkit.errors import BankError, FileError, InputError
from memkit.files.json_files import LARGEST, parse_json
from memkit.retrievers.dit_mem import read_released

log = logging.getLogger(__name__)


class ImportReport(NamedTuple):
    """Ids added by this run, ids added before, items that could not be used, and how many captions were left out:
    ``blank`` ones, and ``unlisted`` ones of clips that the id map does not name."""

    added: list[str]
    present: list[str]
    bad: list[BadItem]
    blank: int
    unlisted: int


class _Caption(NamedTuple):
    name: str
    text: str


def import_dit_mem(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    captions: str | os.PathLike[str] | None = None,
    encoder: VideoEncoder | None = None,
    model: str | None = None,
    progress: bool = False,
) -> ImportReport:
    """Import the clips of a released ``folder`` into the bank ``out``; a stopped run is resumed.

    Latents are stored as they are, bit for bit. Clips that have only a video are encoded by ``encoder``, which
    ``model`` names in the bank's info, with the defaults of `build_bank` (so at their own speed; the release squeezes
    them into 81 frames). All clips of the bank have the shape and dtype of its first, or of the first latents that can
    be read.

    Raises `InputError` for a folder, id map, index or captions that cannot be used as a whole, and `BankError` if
    ``out`` was built with other settings, is being written by another process, or ``encoder`` gives another shape.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}; give the folder of the release.")
    if encoder is not None and model is None:
        raise InputError("The encoder has no name; give model, which the bank's info records.")
    names = _names(folder)
    texts, bad = _captions(folder, captions, names)
    blank = sum(not caption.text for caption in texts)
    by_name, unlisted = _assign(texts, names)
    files, problems = match_released_clips([name for name, text in by_name.items() if text != ""], folder)
    rows: list[Row] = []
    for number, (name, text) in enumerate(by_name.items()):
        if text is None:
            bad.append(BadItem(number, name, f"it has no caption in {captions or folder / 'metadata.json'}"))
        elif name in problems:
            bad.append(BadItem(number, name, problems[name]))
        elif text and encoder is None and not is_latents(files[name]):
            bad.append(BadItem(number, name, "it has only a video, no latents; give a model, and another bank"))
        elif text:
            rows.append(Row(number, files[name], text, name, stem(name)))
    settings: dict[str, Any] = {"imported": "DiT-Mem", "model": model}
    if encoder is not None:
        settings |= clip_settings(encoder, str(model))
        del settings["dtype"]  # it is that of the latents
    with bank_for(Path(out), settings, notes={"folder": str(folder.resolve())}) as bank:
        report = add_rows(bank, rows, _Latents(bank, rows, encoder, settings), progress)
    return ImportReport(report.added, report.present, bad + report.bad, blank, unlisted)


class _Latents:
    """Latents of a row, all of one shape and dtype."""

    def __init__(
        self, bank: MemoryBank, rows: Sequence[Row], encoder: VideoEncoder | None, settings: dict[str, Any]
    ) -> None:
        self.encoder, self.settings = encoder, settings
        self.stems = {stem(row.id) for row in rows}
        self.kind = (bank.shapes[0], bank.dtypes[0]) if len(bank) else _first_kind(rows)

    def __call__(self, row: Row) -> Tensor:
        if self.encoder is not None and not is_latents(row.file):
            latents = encode_file(row.file, self.encoder, self.settings | {"dtype": "fp32"})
            self.kind = self.kind or (tuple(latents.shape), torch.bfloat16)
            shape, dtype = self.kind
            if tuple(latents.shape) != shape:
                raise BankError(
                    f"{self.settings['model']} makes latents {list(latents.shape)} of videos, but the latents here are "
                    f"{list(shape)}; give the model that these were made with."
                )
            return latents.to(dtype)
        latents, video_id = read_released_latents(row.file)
        if video_id is not None and stem(video_id) != stem(row.id) and stem(video_id) in self.stems:
            raise InputError(
                f"{row.file} states that it holds the latents of {video_id!r}; give it those of {row.id!r}."
            )
        if self.kind is not None and (tuple(latents.shape), latents.dtype) != self.kind:
            shape, dtype = self.kind
            raise InputError(
                f"{row.file} holds {latents.dtype} {list(latents.shape)}, but the bank's clips are {dtype} "
                f"{list(shape)}; encode it as these, or import it into another bank."
            )
        return latents


def _first_kind(rows: Sequence[Row]) -> tuple[tuple[int, ...], torch.dtype] | None:
    """Shape and dtype of the first latents that can be read."""
    for row in rows:
        if is_latents(row.file):
            try:
                latents = read_released_latents(row.file).latents
            except Exception:
                continue  # reported when its turn comes
            return tuple(latents.shape), latents.dtype
    return None


def _names(folder: Path) -> list[str] | None:
    """The names in the id map, by row; None if there is no id map."""
    id_map, index = folder / "id_map.json", folder / "labels.index"
    for pickled in (folder / "id_map.pkl", folder / "id_map.pickle"):
        if pickled.exists() and not id_map.exists():
            read_id_map(pickled)  # raises: pickles are refused
    if not id_map.exists():
        return None
    if index.exists():
        read_released(index, id_map)  # raises if they do not belong together
    return read_id_map(id_map)


def _captions(
    folder: Path, captions: str | os.PathLike[str] | None, names: list[str] | None
) -> tuple[list[_Caption], list[BadItem]]:
    """Name and caption, "" where blank, from the CSV or metadata.json, and the rows of the CSV that cannot be used."""
    if captions is None:
        path = folder / "metadata.json"
        if not path.exists():
            raise InputError(f"{folder} has no metadata.json to take captions from; give a CSV of captions.")
        return _read_metadata(path, names), []
    texts: list[_Caption] = []
    bad: list[BadItem] = []
    for line, fields in caption_records(Path(captions)):
        name = (fields.get("video") or "").strip()
        where = f"line {line} of {captions}"
        if fields["problem"]:
            bad.append(BadItem(line, name or f"line {line}", f"{where} cannot be used: {fields['problem']}"))
        elif not name:
            bad.append(BadItem(line, f"line {line}", f"{where} names no video; fill in the column"))
        else:
            texts.append(_Caption(name, (fields["caption"] or "").strip()))
    return texts, bad


def _read_metadata(path: Path, names: list[str] | None) -> list[_Caption]:
    try:
        if path.stat().st_size > LARGEST:
            raise FileError(f"it has {path.stat().st_size:,} bytes")
        content = parse_json(path.read_bytes())
    except OSError as error:  # FileError is one
        raise FileError(f"{path} cannot be read as JSON ({error}); give a CSV of captions.") from error
    entries: list[tuple[str, Any]] = []
    if isinstance(content, dict):
        entries = [(key, {"caption": entry} if isinstance(entry, str) else entry) for key, entry in content.items()]
    elif isinstance(content, list):
        entries = [(str(row), entry) for row, entry in enumerate(content)]
    texts: list[_Caption] = []
    for key, entry in entries:
        if isinstance(entry, dict) and isinstance(entry.get("caption"), str):
            name = next((entry[k] for k in NAME_KEYS if isinstance(entry.get(k), str)), None)
            if name is None and names is not None and key not in names and _is_row(key, len(names)):
                name = names[int(key)]
            texts.append(_Caption(name or key, entry["caption"].strip()))
    if not texts:
        raise InputError(f"{path} has no captions; give a CSV of captions.")
    return texts


def _is_row(key: str, count: int) -> bool:
    return key.isdecimal() and len(key) <= len(str(count)) and int(key) < count


def _assign(texts: list[_Caption], names: list[str] | None) -> tuple[dict[str, str | None], int]:
    """The caption of each name, "" if blank and None if there is none; and the number of captions outside the id map.

    A name without a caption of its own takes that of its stem if both are unique; of several the first is used.
    """
    own: dict[str, str] = {}
    more = 0
    for name, text in texts:
        more += bool(text and own.get(name))
        own[name] = own.get(name) or text
    if more:
        log.warning("%d captions are of clips that already have one; the first is used.", more)
    if names is None:
        return dict(own), 0
    by_stem = {stem(name): name for name in own}
    alone = Counter(map(stem, own)), Counter(map(stem, dict.fromkeys(names)))
    assigned: dict[str, str | None] = {}
    used: set[str] = set()
    for name in dict.fromkeys(names):
        key = name if name in own else by_stem.get(stem(name))
        if key is None or (key != name and any(counts[stem(name)] > 1 for counts in alone)):
            assigned[name] = None
        else:
            assigned[name] = own[key]
            used.add(key)
    return assigned, sum(bool(text) and name not in used for name, text in own.items())
