"""The parts that the commands share: the frozen backbone, the encoder and the retriever."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from torch import Tensor

from memkit import encoders, training
from memkit.backbones import WanBackbone
from memkit.banks import MemoryBank
from memkit.encoders import MemoryEncoder, MemoryGate
from memkit.errors import InputError
from memkit.files.atomic import hash_files
from memkit.generation import make_scheduler
from memkit.retrievers import TextEmbedder, TextRetriever
from recipes.dit_mem.presets import Config


def load_backbone(config: Config, device: torch.device | None = None) -> WanBackbone:
    """`memkit.training.load_backbone` with the flow shift of the run.

    With ``config.shard``, the transformers are sharded over the processes if there are several.
    """
    backbone = training.load_backbone(config, device, shard=config.shard and torch.distributed.is_initialized())
    if config.flow_shift is not None:
        pipe = backbone.pipeline()
        pipe.scheduler = make_scheduler(pipe, config.flow_shift)
    return backbone


def new_encoder(config: Config, backbone: WanBackbone) -> MemoryEncoder:
    """The encoder to train, in fp32: that in ``config.start``, or one initialised from the seed.

    It has a gate if ``config.gate``.
    """
    transformer = backbone.transformer.config
    if config.start is not None:
        return encoders.load_encoder(config.start, config.encoder).to(backbone.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        sizes = {"dim": backbone.width, "latent_channels": transformer.in_channels}
        encoder = encoders.make_encoder(config.encoder, config.encoder_size, **sizes)
    if config.gate:
        encoder.gate = MemoryGate(transformer.num_layers, transformer.num_attention_heads, config.gate_start)
    return encoder.to(backbone.device)


def digest(encoder: Path) -> str:
    """SHA-256 of the weights in a local folder; for a hub id, the id itself."""
    files = sorted(encoder.glob("*.safetensors"))
    return hash_files(*files) if files else str(encoder)


class _RememberingEmbedder(TextEmbedder):
    """Caches the embedding of a single text, because thousands of targets share a few queries."""

    def encode(self, texts: Sequence[str], batch_size: int = 32) -> Tensor:
        if len(texts) != 1:
            return super().encode(texts, batch_size)
        if texts[0] not in self._known:
            self._known[texts[0]] = super().encode(texts)
        return self._known[texts[0]].clone()

    @cached_property
    def _known(self) -> dict[str, Tensor]:
        return {}


@lru_cache(maxsize=1)
def _embedder(text_model: str, trust_remote_code: bool) -> TextEmbedder:
    return _RememberingEmbedder(text_model, trust_remote_code=trust_remote_code)


def text_retriever(config: Config, bank: MemoryBank) -> TextRetriever:
    """Retrieval from ``bank`` by caption."""
    return TextRetriever(bank, _embedder(config.text_model, config.trust_remote_code))


def queries(config: Config, prompts: Sequence[str]) -> list[str]:
    """The query of each prompt: the prompt itself, or what ``query_pattern`` finds in it."""
    if not config.query_pattern:
        return list(prompts)
    return [_query(config.query_pattern, prompt) for prompt in prompts]


def _query(pattern: str, prompt: str) -> str:
    if (match := re.search(pattern, prompt)) is None:
        raise InputError(f'{prompt!r} does not match {pattern!r}; use whole prompts with --query-pattern "".')
    return " ".join(filter(None, match.groups())) or match[0]
