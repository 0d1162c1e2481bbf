"""memkit: memory for video diffusion transformers.

Names are loaded when they are first used, so that ``import memkit`` costs next to nothing beside torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from memkit.version import __version__ as __version__

if TYPE_CHECKING:  # the same names as in the table below, for type checkers
    from memkit.attention import grouped_attention as grouped_attention
    from memkit.backbones import WanBackbone as WanBackbone
    from memkit.banks import Clip as Clip
    from memkit.banks import MemoryBank as MemoryBank
    from memkit.banks import build_bank as build_bank
    from memkit.banks import join_banks as join_banks
    from memkit.cameras import Cameras as Cameras
    from memkit.encoders import FrequencyEncoder as FrequencyEncoder
    from memkit.encoders import FrequencyEncoderConfig as FrequencyEncoderConfig
    from memkit.encoders import HighPass as HighPass
    from memkit.encoders import LowPass as LowPass
    from memkit.encoders import MemoryEncoder as MemoryEncoder
    from memkit.encoders import MemoryGate as MemoryGate
    from memkit.encoders import load_dit_mem as load_dit_mem
    from memkit.encoders import load_encoder as load_encoder
    from memkit.encoders import make_encoder as make_encoder
    from memkit.errors import BankError as BankError
    from memkit.errors import InputError as InputError
    from memkit.errors import MemkitError as MemkitError
    from memkit.frame_graph import FrameGraph as FrameGraph
    from memkit.generation import GuidedMemory as GuidedMemory
    from memkit.generation import conditioning_frames as conditioning_frames
    from memkit.generation import generate_video as generate_video
    from memkit.generation import generate_videos as generate_videos
    from memkit.injectors import AttentionRecorder as AttentionRecorder
    from memkit.injectors import ControlBranch as ControlBranch
    from memkit.injectors import ControlBranchConfig as ControlBranchConfig
    from memkit.injectors import FrameContext as FrameContext
    from memkit.injectors import FrameContextConfig as FrameContextConfig
    from memkit.injectors import KVCache as KVCache
    from memkit.injectors import QueryLayers as QueryLayers
    from memkit.injectors import QueryLayersConfig as QueryLayersConfig
    from memkit.injectors import QueryModule as QueryModule
    from memkit.injectors import QueryModuleConfig as QueryModuleConfig
    from memkit.injectors import RecurrentState as RecurrentState
    from memkit.injectors import SelfAttentionConcat as SelfAttentionConcat
    from memkit.injectors import StateSpaceConfig as StateSpaceConfig
    from memkit.injectors import StateSpaceMemory as StateSpaceMemory
    from memkit.injectors import TeacherForcing as TeacherForcing
    from memkit.interruptions import interrupt as interrupt
    from memkit.memory import Memory as Memory
    from memkit.positions import PMRoPE as PMRoPE
    from memkit.positions import PMRoPEConfig as PMRoPEConfig
    from memkit.positions import PRoPE as PRoPE
    from memkit.retrievers import FOVRetriever as FOVRetriever
    from memkit.retrievers import Hits as Hits
    from memkit.retrievers import LearnedQuery as LearnedQuery
    from memkit.retrievers import LiftedLatents as LiftedLatents
    from memkit.retrievers import SurfelRetriever as SurfelRetriever
    from memkit.retrievers import TextRetriever as TextRetriever
    from memkit.retrievers import VisualRetriever as VisualRetriever
    from memkit.rollout import History as History
    from memkit.rollout import Rollout as Rollout
    from memkit.streaming import Stream as Stream
    from memkit.streaming import StreamConfig as StreamConfig

_PUBLIC: dict[str, tuple[str, str]] = {
    # what passes between the parts
    "Memory": ("memory", "memory tokens with mask, log-weights and gate: from encoders to injectors"),
    "Cameras": ("cameras", "camera-to-world matrices and intrinsics, in one convention"),
    "Hits": ("retrievers", "ids and scores of the clips that a retriever found"),
    "MemkitError": ("errors", "base class of every error that memkit raises on purpose"),
    "InputError": ("errors", "an argument, file or tensor that cannot be used as given"),
    "BankError": ("errors", "a memory bank that is missing, damaged or being written"),
    # memory banks
    "MemoryBank": ("banks", "captioned clips on disk as latents, memory-mapped, appended to safely"),
    "Clip": ("banks", "one clip of a bank: latents, caption, source and cameras"),
    "build_bank": ("banks", "encode captioned videos into a bank, or resume where a run was stopped"),
    "join_banks": ("banks", "several banks become one, without copying shards that stay whole"),
    # retrievers: which clips or frames to remember
    "TextRetriever": ("retrievers", "exact search over captions with any Hugging Face text encoder"),
    "FOVRetriever": ("retrievers", "past frames whose field of view overlaps that of the current camera"),
    "SurfelRetriever": ("retrievers", "past frames that saw the surfaces which a camera will see (VMem)"),
    "LiftedLatents": ("retrievers", "latents of past frames as points in space, seen from a new camera (Mirage)"),
    "VisualRetriever": ("retrievers", "past frames that look like the query, by image embeddings"),
    "LearnedQuery": ("retrievers", "past frames by learned query and key projections"),
    # encoders: latents of clips to memory tokens
    "FrequencyEncoder": ("encoders", "distinct space-time tokens from a low-pass and a high-pass branch"),
    "FrequencyEncoderConfig": ("encoders", "its sizes, with presets per backbone"),
    "MemoryEncoder": ("encoders", "the base of all encoders: saving, the Hub, and the gate"),
    "MemoryGate": ("encoders", "a scale per layer and head, trained and saved with an encoder"),
    "LowPass": ("encoders", "3-D low-pass filter with its cutoff in cycles per cell"),
    "HighPass": ("encoders", "its complement: low + high = identity"),
    "load_dit_mem": ("encoders", "the encoder released with DiT-Mem, at 1 % of its tokens"),
    "load_encoder": ("encoders", "whichever encoder a folder or a Hub repository holds, with its gate"),
    "make_encoder": ("encoders", "a new encoder by name, to compare several"),
    # injectors: memory into a stock model, by `.attach(model)`
    "SelfAttentionConcat": ("injectors", "memory tokens join the keys and values of every self-attention (DiT-Mem)"),
    "AttentionRecorder": ("injectors", "where attention falls, by forward, layer and sample"),
    "KVCache": ("injectors", "keys and values of earlier frames within a budget of bytes (streaming)"),
    "QueryLayers": ("injectors", "learned queries inside the model fetch from context frames (MemLearner)"),
    "QueryLayersConfig": ("injectors", "its sizes and settings"),
    "QueryModule": ("injectors", "a separate module of queries, as a baseline"),
    "QueryModuleConfig": ("injectors", "its sizes and settings"),
    "FrameContext": ("injectors", "context frames in the sequence (CaM, DFoT's window, FramePack)"),
    "FrameContextConfig": ("injectors", "its settings"),
    "ControlBranch": ("injectors", "latents guide a stock Wan by blocks beside its own, as VACE's"),
    "ControlBranchConfig": ("injectors", "its sizes"),
    "StateSpaceMemory": (
        "injectors",
        "a gated recurrence over time, its state carried from chunk to chunk",
    ),
    "StateSpaceConfig": ("injectors", "its sizes"),
    "RecurrentState": ("injectors", "what recurrent memory carries, saved and loaded"),
    "TeacherForcing": ("injectors", "all chunks of a clip in one forward pass, with the visibility of streaming"),
    "PMRoPE": ("positions", "the camera pose in the rotary positions of every self-attention (ReMind)"),
    "PMRoPEConfig": ("positions", "its sizes"),
    "PRoPE": ("positions", "projective camera positions, to compare"),
    "grouped_attention": ("attention", "the primitive under all injectors: groups of tokens, a visibility table"),
    # backbones and generation
    "WanBackbone": ("backbones", "Wan2.1 and Wan2.2 from diffusers folders, the Hub or original checkpoints"),
    "generate_video": ("generation", "one video from a prompt, with or without memory"),
    "generate_videos": ("generation", "several in one batch"),
    "GuidedMemory": ("generation", "memory as a direction of its own in classifier-free guidance"),
    "conditioning_frames": ("generation", "continue from a first image or from first frames"),
    "Stream": ("streaming", "videos of any length from a causal Wan, in constant memory"),
    "StreamConfig": ("streaming", "its settings"),
    "Rollout": ("rollout", "long videos chunk by chunk with any context method"),
    "History": ("rollout", "the frames of a rollout, within a budget of bytes"),
    # training and evaluation
    "FrameGraph": ("frame_graph", "which chunks of a clip see each other during training"),
    "interrupt": ("interruptions", "a clip interrupted by an occluder, darkness or a look away, and its twin"),
}
"""Every public name: its room, and what it is."""

__all__ = list(_PUBLIC)  # pyright: ignore[reportUnsupportedDunderAll]
__doc__ = "\n".join([__doc__ or "", *(f"{name:<23} {line}" for name, (_, line) in _PUBLIC.items())])


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'memkit' has no attribute {name!r}")
    return getattr(import_module(f"memkit.{_PUBLIC[name][0]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
