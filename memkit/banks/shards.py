"""Shards: the safetensors files that hold the clips of a bank.

A shard is written once, under the next number, and never changed. A clip is compared with its checksum when a process
reads it for the first time, so that a damaged one is an error rather than other latents; `Shards.damage` compares whole
files.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import safe_open
from torch import Tensor

from memkit.banks.entries import DTYPES, Entry, Shard, shard_name
from memkit.display import counted
from memkit.errors import BankError
from memkit.files.atomic import atomic_write, hash_files, sync_folder

_OPEN_SHARDS = 128  # memory maps that a reader keeps open


class Shards:
    """The shards of the bank at ``path``, by number. A clip has latents and, with cameras, c2w and intrinsics."""

    def __init__(self, path: Path, name: str | None = None) -> None:
        self._name = name or str(path)  # as messages call the bank
        self._folder = path / "shards"
        self._open = lru_cache(_OPEN_SHARDS)(self._map)
        self._compared: set[tuple[int, str]] = set()

    def write(self, number: int, clips: dict[str, dict[str, Tensor]]) -> Shard:
        """Write the tensors of each id as the next shard; raises what `place` raises."""
        data = safetensors.torch.save({f"{id}/{name}": t for id, clip in clips.items() for name, t in clip.items()})
        shard = Shard(shard_name(number), len(data), hashlib.sha256(data).hexdigest())
        with atomic_write(self.place(number)) as partial:
            partial.write_bytes(data)
        sync_folder(self._folder)
        return shard

    def place(self, number: int) -> Path:
        """Where the next shard goes. What an interrupted write left there may be replaced: no line names it.

        Raises:
            BankError: there is one after it too, which no interrupted write leaves.
        """
        self._refuse([name] if (self._folder / (name := shard_name(number + 1))).exists() else [])
        return self._folder / shard_name(number)

    def refuse_orphans(self, count: int) -> None:
        """Raises `BankError` if there are shards beyond the first ``count`` and the next, which may be replaced."""
        self._refuse([name for name in self.orphans(count) if name != shard_name(count)])

    def _refuse(self, later: list[str]) -> None:
        if later:
            raise BankError(
                f"{self._folder / later[0]} is there, but the manifest ends before it, as if an older copy of the "
                f"manifest had been restored. Nothing was written; restore the newest clips.jsonl and bank.json of "
                f"{self._name}, or move the shards that verify() names to another place."
            )

    def orphans(self, count: int) -> list[str]:
        """Names of the shards that are not among the first ``count``."""
        known = {shard_name(number) for number in range(count)}
        return sorted(file.name for file in self._folder.glob("*.safetensors") if file.name not in known)

    def read(self, entry: Entry) -> dict[str, Tensor]:
        """The tensors of a committed clip, memory-mapped, and compared with its checksum at the first time."""
        tensors = self._read(entry, self._open(entry.shard))
        if (entry.shard, entry.id) not in self._compared:
            if entry.digest(tensors) != entry.sha256:
                raise BankError(
                    f"Clip {entry.id!r} in {self._name}/shards/{shard_name(entry.shard)} is damaged: it does not match "
                    "its checksum; run verify(), and restore the shard from a copy, or build the bank anew."
                )
            self._compared.add((entry.shard, entry.id))
        return tensors

    def damage(self, number: int, shard: Shard, entries: list[Entry]) -> list[str]:
        """One line per difference between this shard and its description in the manifest."""
        clips = f"holds {counted(len(entries), 'clip')} from {entries[0].id!r} to {entries[-1].id!r}"
        try:
            digest = hash_files(self._folder / shard.name)
            file = self._map(number)  # not one that is open already: it may show the shard as it was
        except (OSError, BankError) as error:
            return [f"shard {shard.name}: {error} ({clips})"]
        faults = {entry.id: self._fault(entry, file) for entry in entries}
        lines = [f"shard {shard.name}, clip {id!r}: {fault}" for id, fault in faults.items() if fault]
        if digest != shard.sha256 and not lines:
            lines.append(f"shard {shard.name}: its header does not match its checksum ({clips})")
        return lines

    def _fault(self, entry: Entry, file: Any) -> str | None:
        try:
            tensors = self._read(entry, file)
        except BankError as error:
            return str(error)
        if entry.digest(tensors) != entry.sha256:
            return "it does not match its checksum"
        if not all(bool(t.isfinite().all()) for t in tensors.values()):
            return "it has values that are not finite"
        return None

    def _read(self, entry: Entry, file: Any) -> dict[str, Tensor]:
        names = ("latents", "c2w", "intrinsics") if entry.cameras else ("latents",)
        try:
            tensors = {name: file.get_tensor(f"{entry.id}/{name}") for name in names}
        except Exception as error:  # what another file in the place of a shard leads to has many types
            raise BankError(f"clip {entry.id!r} of {self._name} cannot be read: {error}; run verify().") from error
        latents = tensors["latents"]
        if list(latents.shape) != entry.shape or latents.dtype != DTYPES[entry.dtype]:
            raise BankError(f"clip {entry.id!r} of {self._name} is not as its manifest says; run verify().")
        return tensors

    def _map(self, number: int) -> Any:
        file = self._folder / shard_name(number)
        try:
            return safe_open(str(file), "pt")
        except Exception as error:  # OSError, SafetensorError and others
            raise BankError(f"{file} cannot be read: {error}; run verify().") from error
