"""`FeatureBank`: what a frozen encoder makes of each clip of a bank, so that no latents are read and encoded again.

The features are a bank themselves, in ``BANK/features/DIGEST``, with the guarantees of one: what was added survives a
kill, what is damaged is named, and one process writes. ``DIGEST`` is that of the encoder's class, configuration and
weights: another encoder finds other features, or none. Each feature states the checksum of its clip, too.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from memkit.banks.bank import MemoryBank
from memkit.banks.build import COMMIT_SECONDS, bank_for
from memkit.checks import check_list
from memkit.encoders.base import MemoryEncoder
from memkit.errors import InputError
from memkit.memory import Memory

_FORMAT = 1


class FeatureBank:
    """What an encoder makes of each clip of a bank: its `MemoryEncoder.clip_features`.

        features = FeatureBank(bank, encoder)
        features.fill()  # once; goes on where it was stopped
        memory = features([hits.ids])

    The features are, bit for bit, those of a clip by itself; where the encoder gets several clips at once, its last
    bits may differ, as sums have another order. What joins clips, such as the attention of DiT-Mem, is computed anew.

    Args:
        bank: the bank, local or at a URL.
        encoder: in eval mode, with `MemoryEncoder.clip_features`, as all encoders of memkit have.
        folder: where the features are kept; by default in the folder of a local bank.

    Raises:
        InputError: the encoder is in training mode, or the bank is at a URL and no folder is given.
        BankError: the features on disk are damaged.
    """

    def __init__(self, bank: MemoryBank, encoder: MemoryEncoder, folder: str | os.PathLike[str] | None = None) -> None:
        if encoder.training:
            raise InputError(f"{type(encoder).__name__} is in training mode; its features change: call eval() first.")
        if folder is None and bank.is_remote:
            raise InputError(f"{bank!r} cannot be written to; give a local folder for its features.")
        self.bank, self.encoder = bank, encoder
        self.digest = encoder_digest(encoder)
        """SHA-256 of the encoder: its class, configuration, weights and their dtypes."""
        self._versions = _versions(encoder)
        self.path = (bank.path / "features" if folder is None else Path(folder)) / self.digest[:16]
        self._stored = MemoryBank.open(self.path) if (self.path / "bank.json").exists() else None

    def __len__(self) -> int:
        """Number of clips with features; the bank may have fewer by now, or others."""
        return 0 if self._stored is None else len(self._stored)

    def missing(self) -> list[str]:
        """The ids of the bank's clips that have no features yet."""
        stored = self._stored or ()
        return [id for id in self.bank.ids if self.bank.digest(id) not in stored]

    def fill(self, ids: Sequence[str] | None = None, progress: bool = False) -> int:
        """Encode the clips that have no features yet, of ``ids`` or of all; returns how many those were.

        What is encoded is committed every half minute, and when the call is interrupted.

        Raises:
            InputError: there is no such clip, the encoder has no features or features that are not finite, or it was
                trained since.
            BankError: another process writes the features, or they cannot be written.
        """
        self._refuse_change()
        lack = dict.fromkeys(self.missing() if ids is None else ids)
        todo = [id for id in lack if self.bank.digest(id) not in (self._stored or ())]
        if not todo:
            return 0
        info = {"features": _FORMAT, "encoder": type(self.encoder).__name__, "digest": self.digest}
        with bank_for(self.path, info) as stored:
            self._stored, committed = stored, time.monotonic()
            for id in tqdm(todo, desc="features", unit="clip", disable=not progress):
                if (key := self.bank.digest(id)) not in stored:
                    stored.add(key, self._encode(id)[None].cpu(), id)
                if time.monotonic() - committed > COMMIT_SECONDS:
                    stored.flush()
                    committed = time.monotonic()
        return len(todo)

    def __call__(self, ids: Sequence[Sequence[str]]) -> Memory:
        """The memory of a list of clips per sample, on the encoder's device: what it gives for their latents.

        Shorter lists are padded with masked clips. All clips are of one size.

        Raises:
            InputError: a clip has no features yet, clips differ in size, or the encoder was trained since.
            BankError: the features of a clip are damaged.
        """
        self._refuse_change()
        check_list("ids", ids, "lists of ids, one per sample")
        if any(isinstance(row, str) for row in ids):
            raise InputError(f"ids are lists of ids, one per sample; write [{list(ids)!r:.80}].")
        flat = self._read([id for row in ids for id in row])
        counts = [len(row) for row in ids]
        mask = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
        features = flat.new_zeros(*mask.shape, *flat.shape[1:])
        features[mask] = flat
        device = self._device
        return self.encoder.from_features(features.to(device), None if mask.all() else mask.to(device))

    @property
    def _device(self) -> torch.device:
        return next(self.encoder.parameters()).device

    def _read(self, ids: Sequence[str]) -> Float[Tensor, "clips features size"]:
        if not ids:
            raise InputError("No sample has a clip; attach no memory.")
        stored = self._stored
        if stored is None or (lack := [id for id in ids if self.bank.digest(id) not in stored]):
            name, lacks = type(self.encoder).__name__, ids[0] if stored is None else lack[0]
            raise InputError(f"Clip {lacks!r} has no features by this {name} ({self.digest[:16]}); call fill().")
        return stored.latents([self.bank.digest(id) for id in ids])[0, :, 0, 0]

    @torch.no_grad()
    def _encode(self, id: str) -> Float[Tensor, "clip features size"]:
        return self.encoder.clip_features(self.bank.latents([id])[0].to(self._device))

    def _refuse_change(self) -> None:
        """Raises `InputError` if the encoder was trained, or changed in another way, since its digest was computed."""
        versions = _versions(self.encoder)
        if self.encoder.training or (versions != self._versions and encoder_digest(self.encoder) != self.digest):
            raise InputError("The encoder has changed since; make a new FeatureBank when its training is over.")
        self._versions = versions


def encoder_digest(encoder: MemoryEncoder) -> str:
    """SHA-256 of an encoder: its class, configuration, and weights with their dtypes."""
    config = dataclasses.asdict(encoder.config)
    digest = hashlib.sha256(json.dumps([type(encoder).__qualname__, config], sort_keys=True).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _versions(encoder: MemoryEncoder) -> list[tuple[int, int]]:
    """Changes with each change of the weights in place."""
    return [(id(x), 0 if x.is_inference() else x._version) for x in (*encoder.parameters(), *encoder.buffers())]
