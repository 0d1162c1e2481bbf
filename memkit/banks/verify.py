"""`verify`: whether all that a bank states is so."""

from __future__ import annotations

import logging
from itertools import groupby
from typing import NamedTuple

from memkit.banks.manifest import Manifest
from memkit.errors import BankError

log = logging.getLogger(__name__)


class BankReport(NamedTuple):
    """What `MemoryBank.verify` has checked."""

    clips: int
    shards: int
    bytes: int


def verify(manifest: Manifest) -> BankReport:
    """As `MemoryBank.verify`, of the clips that a manifest has read."""
    entries, shards = manifest.entries.values(), manifest.shards
    damage: list[str] = []
    left: list[str] = []
    try:
        left, orphans = manifest.orphans()
        damage += [f"shard {name}: the manifest does not name it, and may be an older copy" for name in orphans]
    except BankError as error:
        damage.append(str(error))
    for number, group in groupby(entries, key=lambda entry: entry.shard):
        damage += manifest.stored.damage(number, shards[number], list(group))
    if damage:
        remedy = "restore these from a copy, or build the bank anew"
        raise BankError(f"{manifest.name} has {len(damage)} damaged items ({remedy}):\n  " + "\n  ".join(damage))
    for name in left:
        log.warning("%s/shards/%s is of an unfinished write; the next one replaces or removes it.", manifest.name, name)
    return BankReport(len(entries), len(shards), sum(shard.bytes for shard in shards))
