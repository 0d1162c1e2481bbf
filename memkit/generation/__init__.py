"""Generation: videos of a fixed length from a prompt, with memory, guidance and conditioning frames."""

from memkit.generation.conditioning import conditioning_frames, write_conditioning_frames
from memkit.generation.generate import generate_latents, generate_video, generate_videos
from memkit.generation.guidance import GuidedMemory, MemoryGuidance
from memkit.generation.short_text import embed_short, short_texts

__all__ = [
    "MemoryGuidance",
    "embed_short",
    "generate_latents",
    "generate_video",
    "generate_videos",
    "GuidedMemory",
    "conditioning_frames",
    "short_texts",
    "write_conditioning_frames",
]
