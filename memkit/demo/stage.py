"""What the demo generates with: a model, an encoder, and a bank to retrieve from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor

import memkit
from memkit.demo.bank import frames_of
from memkit.demo.summary import video_tokens, what_to_see
from memkit.generation.generate import generate_videos
from memkit.generation.guidance import GuidedMemory, MemoryGuidance
from memkit.injectors.attention_recorder import AttentionRecorder
from memkit.memory import Memory
from memkit.report.html import Comparison, HitClip
from memkit.retrievers.hits import Hits

Videos = UInt8[Tensor, "seeds frames height width 3"]


@dataclass
class Found:
    """The clips that a query retrieves, and their memory."""

    query: str
    hits: Hits
    memory: Memory


@dataclass
class Stage:
    """Generates the videos of the demo: one per seed, in one batch, from the same noise with and without memory."""

    backbone: memkit.WanBackbone
    encoder: memkit.FrequencyEncoder
    bank: memkit.MemoryBank
    retriever: memkit.TextRetriever
    k: int
    steps: int
    guidance_scale: float
    memory_guidance: MemoryGuidance | None
    conditioning_latents: Tensor | None
    text_length: int

    def find(self, query: str) -> Found:
        """Retrieve and encode k clips."""
        hits = self.retriever(query, k=self.k)
        with torch.no_grad():
            return Found(query, hits, self.encoder(self.bank.latents(hits.ids)))

    def generate(
        self, prompt: str, found: Found | None, seeds: Sequence[int], recorder: AttentionRecorder | None = None
    ) -> Videos:
        """One video per seed, with the memory of some clips or, with None, without."""
        if found is None:
            return self._generate(prompt, seeds)
        injector = memkit.SelfAttentionConcat(found.memory, recorder)
        guided = injector if self.memory_guidance is None else GuidedMemory(injector, self.memory_guidance)
        with guided.attach(*self.backbone.transformers):
            return self._generate(prompt, seeds)

    def _generate(self, prompt: str, seeds: Sequence[int]) -> Videos:
        return generate_videos(
            self.backbone,
            [prompt] * len(seeds),
            seeds=seeds,
            steps=self.steps,
            guidance_scale=self.guidance_scale,
            conditioning_latents=self.conditioning_latents,
            text_length=self.text_length,
        ).contiguous()

    def comparison(
        self, prompt: str, found: Found, without: Tensor, with_memory: Tensor, recorder: AttentionRecorder
    ) -> Comparison:
        """What the report shows of one prompt and seed; ``recorder`` has recorded ``with_memory``."""
        hits, memory = found.hits, found.memory
        shares = recorder.shares()[..., 0]
        tokens = video_tokens(self.backbone, self.bank.latents(hits.ids[:1]).shape[-3:])
        captions = dict(zip(self.bank.ids, self.bank.captions, strict=True))
        both = self.guidance_scale > 1 and self.memory_guidance is None
        return Comparison(
            prompt=prompt,
            query=found.query,
            without=without,
            with_memory=with_memory,
            hits=[
                HitClip(id, score, captions[id], frames_of(self.bank, id))
                for id, score in zip(hits.ids, hits.scores, strict=True)
            ],
            attention=shares[::2] if both else shares,  # with guidance, every other call is without text
            even_share=memory.tokens.shape[1] / (memory.tokens.shape[1] + tokens) if memory.gate is None else None,
            note=what_to_see(prompt),
        )
