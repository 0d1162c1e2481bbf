"""Memory in diffusers' modular pipelines: clips of a bank are retrieved and encoded, and the denoising loop sees them.

    blocks = WanMemoryBlocks()  # or ModularPipelineBlocks.from_pretrained(repository, trust_remote_code=True)
    pipe = blocks.init_pipeline("Wan-AI/Wan2.1-T2V-1.3B-Diffusers")
    pipe.load_components(torch_dtype=torch.bfloat16)
    pipe.update_components(memory_encoder=load_encoder("runs/dit-mem"))
    videos = pipe(prompt="a red ball falls", memory_bank="bank/", output="videos")

The steps can be put into other pipelines: `RetrieveMemoryStep` before the denoising loop, and in the place of the loop
one that shows the memory, such as `WanMemoryDenoiseStep`.
"""

from __future__ import annotations

import os
from typing import Any, Unpack

import torch
from diffusers.modular_pipelines.modular_pipeline import PipelineState
from diffusers.modular_pipelines.modular_pipeline_utils import ComponentSpec, ConfigSpec, InputParam, OutputParam
from diffusers.modular_pipelines.wan.before_denoise import WanSetTimestepsStep, WanTextInputStep
from diffusers.modular_pipelines.wan.decoders import WanVaeDecoderStep
from diffusers.modular_pipelines.wan.denoise import Wan22DenoiseStep, WanDenoiseLoopWrapper, WanDenoiseStep
from diffusers.modular_pipelines.wan.modular_blocks_wan import WanBlocks, WanCoreDenoiseStep
from diffusers.modular_pipelines.wan.modular_blocks_wan22 import Wan22Blocks, Wan22CoreDenoiseStep

from memkit.banks.bank import MemoryBank
from memkit.encoders.base import MemoryEncoder
from memkit.encoders.choice import load_encoder
from memkit.errors import InputError
from memkit.hub import HubOptions
from memkit.injectors.self_attention import SelfAttentionConcat
from memkit.memory import Memory
from memkit.modular.saving import MemkitBlocks
from memkit.modular.steps import LatentsStep, TextStep
from memkit.retrievers.embedders import DEFAULT_MODEL
from memkit.retrievers.hits import Retriever
from memkit.retrievers.text import TextRetriever


class AutoMemoryEncoder:
    """Loads an encoder of any class as a component of a modular pipeline, which then remembers where it came from:

    spec = pipe.get_component_spec("memory_encoder")
    pipe.update_components(memory_encoder=spec.load(pretrained_model_name_or_path="runs/dit-mem"))
    """

    @classmethod
    def from_pretrained(
        cls, folder_or_id: str | os.PathLike[str], *, variant: None = None, **hub: Unpack[HubOptions]
    ) -> MemoryEncoder:
        """The encoder saved in a folder or under a Hub id. It has no variants."""
        return load_encoder(folder_or_id, **hub)


class RetrieveMemoryStep(MemkitBlocks):
    """Retrieves clips by prompt and encodes them, for each prompt its own; passes ``memory`` on if it is given."""

    model_name = "wan"

    @property
    def description(self) -> str:
        return (
            "Retrieves clips whose captions are nearest to the prompt from a memory bank, and encodes them to memory."
        )

    @property
    def expected_components(self) -> list[ComponentSpec]:
        return [ComponentSpec("memory_encoder", AutoMemoryEncoder, description="Encodes the latents of clips.")]

    @property
    def expected_configs(self) -> list[ConfigSpec]:
        return [ConfigSpec("memory_text_model", DEFAULT_MODEL, description="Text encoder of the retriever.")]

    @property
    def inputs(self) -> list[InputParam]:
        return [
            InputParam("prompt"),
            InputParam("memory", type_hint=Memory, description="Encoded memory, instead of retrieved clips."),
            InputParam("memory_bank", type_hint=str | MemoryBank, description="The bank of clips, or its folder."),
            InputParam("memory_retriever", type_hint=Retriever, description="Instead of retrieval by caption."),
            InputParam("num_memory_clips", default=5, type_hint=int, description="Clips per prompt."),
        ]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return [
            OutputParam("memory", type_hint=Memory, description="One sample per prompt."),
            OutputParam("memory_ids", type_hint=list[list[str]], description="The retrieved clips of each prompt."),
        ]

    @torch.no_grad()
    def __call__(self, components: Any, state: PipelineState) -> tuple[Any, PipelineState]:
        block_state: Any = self.get_block_state(state)
        block_state.memory_ids = []
        if block_state.memory is None:
            self._retrieve(components, block_state)
        self.set_block_state(state, block_state)
        return components, state

    def _retrieve(self, components: Any, block_state: Any) -> None:
        bank, encoder = block_state.memory_bank, components.memory_encoder
        if bank is None or encoder is None or block_state.prompt is None:
            raise InputError(
                "There is no memory: give memory_bank and a prompt, and the encoder with "
                "pipe.update_components(memory_encoder=load_encoder(...)); or give memory."
            )
        bank = bank if isinstance(bank, MemoryBank) else MemoryBank.open(bank)
        retriever = block_state.memory_retriever
        if retriever is None:
            retriever = TextRetriever(bank, components.config.memory_text_model)
        prompts = [block_state.prompt] if isinstance(block_state.prompt, str) else list(block_state.prompt)
        block_state.memory_ids = [list(hits.ids) for hits in retriever(prompts, k=block_state.num_memory_clips)]
        block_state.memory = encoder(bank.latents(block_state.memory_ids).to(next(encoder.parameters())))


class ShowMemory(WanDenoiseLoopWrapper):
    """Mixin of denoising loops of Wan: all of their transformers see ``memory`` (DiT-Mem, arXiv 2511.19229)."""

    @property
    def loop_inputs(self) -> list[InputParam]:
        memory = InputParam("memory", required=True, type_hint=Memory, description="Of one sample, or one per prompt.")
        return [*super().loop_inputs, memory]

    @torch.no_grad()
    def __call__(self, components: Any, state: PipelineState) -> tuple[Any, PipelineState]:
        memory: Any = state.get("memory")
        batch = len(state.get("latents"))
        if memory is None:
            raise InputError("There is no memory; put RetrieveMemoryStep before the denoising loop, or give memory.")
        rows = memory.tokens.shape[0]
        if rows not in (1, batch) and batch % rows == 0:  # num_videos_per_prompt: prompt by prompt
            memory = memory.repeat_interleave(batch // rows)
        models = [components.transformer, getattr(components, "transformer_2", None)]
        with SelfAttentionConcat(memory).attach(*(model for model in models if model is not None)):
            return super().__call__(components, state)


class WanMemoryDenoiseStep(MemkitBlocks, ShowMemory, WanDenoiseStep):
    """The denoising loop of Wan2.1, with memory."""


class Wan22MemoryDenoiseStep(MemkitBlocks, ShowMemory, Wan22DenoiseStep):
    """The denoising loop of the two experts of Wan2.2, with memory."""


class WanMemoryCoreDenoiseStep(WanCoreDenoiseStep):
    """`WanCoreDenoiseStep` with memory in its loop."""

    block_classes = [WanTextInputStep, WanSetTimestepsStep, LatentsStep, WanMemoryDenoiseStep]


class Wan22MemoryCoreDenoiseStep(Wan22CoreDenoiseStep):
    """`Wan22CoreDenoiseStep` with memory in its loop."""

    block_classes = [WanTextInputStep, WanSetTimestepsStep, LatentsStep, Wan22MemoryDenoiseStep]


class WanMemoryBlocks(MemkitBlocks, WanBlocks):
    """Text to video with memory, for Wan2.1."""

    block_classes = [TextStep, RetrieveMemoryStep, WanMemoryCoreDenoiseStep, WanVaeDecoderStep]
    block_names = ["text_encoder", "memory", "denoise", "decode"]

    @property
    def description(self) -> str:
        return "Text to video with Wan2.1, whose self-attention sees clips that are retrieved from a memory bank."


class Wan22MemoryBlocks(MemkitBlocks, Wan22Blocks):
    """Text to video with memory, for the two experts of Wan2.2."""

    block_classes = [TextStep, RetrieveMemoryStep, Wan22MemoryCoreDenoiseStep, WanVaeDecoderStep]
    block_names = ["text_encoder", "memory", "denoise", "decode"]

    @property
    def description(self) -> str:
        return "Text to video with Wan2.2, whose self-attention sees clips that are retrieved from a memory bank."
